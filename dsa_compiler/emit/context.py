"""What recognisers are given beside the nest."""

from __future__ import annotations

from dataclasses import dataclass

from dsa_compiler.emit.kernel_pass import Scope
from dsa_compiler.emit.nest import Access
from dsa_compiler.emit.vector_engine import Part, VectorEngine
from dsa_compiler.isa.definition import OpDef, OperandSpec
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.target import Target


@dataclass(frozen=True)
class Context:
    """The part, what is known about the loops around the nest, and the search for axes."""

    target: Target
    scope: Scope
    engine: VectorEngine

    def definition(self, opcode: str) -> OpDef | None:
        """The opcode's entry in the table, or None where the part lacks the feature that it needs."""
        definition = OPCODES.get(opcode)
        if definition is None:
            return None
        feature = definition.feature
        return definition if not feature or getattr(self.target.features, feature) else None

    def part(self, opcode: str, role: str, access: Access) -> Part | None:
        """The operand of an opcode, or None where its scope or dtype is not one that it takes."""
        definition = self.definition(opcode)
        spec = definition.spec(role) if definition else None
        if spec is None or access.index is not None or not accepts(spec, access):
            return None
        if access.dtype not in self.target.dtypes:
            return None
        return Part(
            role, access,
            broadcast=spec.broadcast, written=role in ("dst", "acc"),
            base_aligned=spec.aligned_base, rows_aligned=spec.aligned_strides,
        )  # fmt: skip


def accepts(spec: OperandSpec, access: Access) -> bool:
    """Whether an operand's scope and dtype are among those of its specification."""
    return access.scope in spec.scopes and (not spec.dtypes or access.dtype in spec.dtypes)
