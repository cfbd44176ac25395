"""What makes a program illegal, found before it runs: every rule of the manual on single entries.

The tables are looked at in bulk; entries are visited one by one only in an error's message. The rules on what a
sequence of entries does (unwritten reads, races, deadlock, flag overflow) are the simulator's.

Choices where the manual is silent: rows of a written operand must not overlap each other; a stride is bound by the
rules even where its extent is 1; members of a multicast are of one opcode and read one source, each in its own queue.
"""

from __future__ import annotations

from dsa_compiler.isa.cost_tables import Tables
from dsa_compiler.isa.validate_entries import check_features, check_flags, check_groups, check_queues, check_tables
from dsa_compiler.isa.validate_operands import check_operands
from dsa_compiler.isa.validate_overlap import check_overlap
from dsa_compiler.isa.validate_shapes import check_attrs, check_shapes

RULES = (
    check_tables, check_queues, check_features, check_flags, check_attrs, check_operands, check_shapes, check_overlap,
    check_groups,
)  # fmt: skip
"""The groups of rules; each may rely on those before it."""


def validate_program(program: Tables) -> None:
    """Raise `UserError` for an entry that the part cannot execute, the first that the first broken rule meets.

    The message names the entry's number, its opcode, the operand, the limit and the value found.
    """
    for check in RULES:
        check(program)
