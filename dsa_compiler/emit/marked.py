"""Marked regions: the author of a kernel names the instruction.

    with T.attr(0, "pragma_npu_instruction", "cumsum"): nest
    with T.attr(0, "pragma_npu_instruction", '{"op": "sort_stage", "attrs": {"distance": 4, "direction": 8}}'): nest

The nest's extents are those of every operand; loads, in the order of the expression, are its sources.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tvm.tirx import AttrStmt

from dsa_compiler.emit.context import Context
from dsa_compiler.emit.nest import Nest
from dsa_compiler.emit.plan import Plan
from dsa_compiler.emit.recognize_vector import plans_of
from dsa_compiler.errors import UserError
from dsa_compiler.isa.table import OPCODES

PRAGMA = "pragma_npu_instruction"


def named_instruction(stmt: AttrStmt) -> tuple[str, dict[str, Any]]:
    """(opcode, attributes) of a mark; raises `UserError` for an opcode that there is not."""
    text = str(stmt.value.value)
    opcode, attrs = text, {}
    if text.startswith("{"):
        try:
            mark = json.loads(text)
            opcode, attrs = str(mark["op"]), dict(mark.get("attrs", {}))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f'the mark {text} is not of the form {{"op": .., "attrs": {{..}}}}', where=PRAGMA, action="correct it"
            ) from error
    if opcode not in OPCODES:
        raise UserError(f"no instruction is called {opcode!r}", where=PRAGMA, action="see the instruction table")
    return opcode, attrs


def plans_as_named(opcode: str, attrs: dict[str, Any], nest: Nest, context: Context) -> Iterator[Plan]:
    """Placements of the instruction with the nest's loads as its sources."""
    yield from plans_of(opcode, nest, list(nest.loads), attrs, context)
