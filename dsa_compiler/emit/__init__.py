"""Instruction emission: TIR kernels to instruction calls (level 3 to level 4)."""
