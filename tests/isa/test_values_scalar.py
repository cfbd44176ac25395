"""Scalar instructions and control entries."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dsa_compiler.errors import UserError
from dsa_compiler.isa.cost import entry_costs
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.isa.validate import validate_program

BINARY = {
    "s_add": lambda x, y: x + y, "s_sub": lambda x, y: x - y, "s_mul": lambda x, y: x * y,
    "s_div": lambda x, y: -1 if y == 0 else math.trunc(x / y), "s_mod": lambda x, y: x if y == 0 else int(math.fmod(x,
     y)),
    "s_min": min, "s_max": max, "s_and": lambda x, y: x & y, "s_or": lambda x, y: x | y, "s_xor": lambda x, y: x ^ y,
    "s_shl": lambda x, y: x << y if 0 <= y < 32 else 0, "s_shr": lambda x, y: x >> y if 0 <= y < 32 else -(x < 0),
}  # fmt: skip
CONDITIONS = {
    "eq": lambda x, y: x == y, "ne": lambda x, y: x != y, "lt": lambda x, y: x < y, "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y, "ge": lambda x, y: x >= y,
}  # fmt: skip
CONTROL = {"s_branch": {"control": 3}, "s_loop": {"control": 8}, "set": {}, "wait": {}, "halt": {},
           "barrier": {"scope": "chip", "queues": []}}  # fmt: skip
ORACLES = {*BINARY, *CONTROL, "s_cmp", "s_select", "s_move", "s_addr", "s_load", "s_store"}
X, Y = [7, -7, 0, 2**31 - 1, 100], [2, 2, 5, 1, -3]


def counts(n):
    return {"ops": n, "control": 2 * n}


@pytest.mark.parametrize("op", sorted(BINARY))
def test_arithmetic(isa, op):
    expected = [(BINARY[op](a, b) + 2**31) % 2**32 - 2**31 for a, b in zip(X, Y, strict=True)]
    assert isa.run(op, {"src": (X, "int32"), "src2": (Y, "int32")}, counts(5), ((5,), "int32")).tolist() == expected
    one = isa.run(op, {"src": ([7], "int8"), "src2": ([0], "int8")}, counts(1), ((1,), "int32"))
    assert one.tolist() == [BINARY[op](7, 0)]


@pytest.mark.parametrize("condition", sorted(CONDITIONS))
def test_compare(isa, condition):
    attrs = {"condition": condition, **counts(3)}
    x, y = [1, 2, 3], [3, 2, 1]
    for dtype in ("int32", "float16"):
        result = isa.run("s_cmp", {"src": (x, dtype), "src2": (y, dtype)}, attrs, ((3,), "bool"))
        assert result.tolist() == [CONDITIONS[condition](a, b) for a, b in zip(x, y, strict=True)]


def test_elements(isa):
    sources = {"src": ([1, 2], "int32"), "src2": ([30, 40], "int32")}
    chosen = isa.run("s_select", {**sources, "src3": ([False, True], "bool")}, counts(2), ((2,), "int32"))
    assert chosen.tolist() == [30, 2]
    assert isa.run("s_move", {"src": ([1.5, -2.5], "float16")}, counts(2), ((2,), "float16")).tolist() == [1.5, -2.5]
    assert isa.run("s_addr", sources, {"value": 64, **counts(2)}, ((2,), "int32")).tolist() == [94, 168]
    loaded = isa.run("s_load", {"src": ([5, 6, 7], "int8"), "index": ([2, 0], "int32")}, counts(2), ((2,), "int8"))
    assert loaded.tolist() == [7, 5]
    stored = isa.run("s_store", {"src": ([5, 6], "int8"), "index": ([2, 0], "int32")}, counts(2), ((3,), "int8"))
    memory = np.zeros(3, np.int8)
    memory[[2, 0]] = stored
    assert memory.tolist() == [6, 0, 5]
    with pytest.raises(UserError, match="index 3 is outside 0 to 2"):
        isa.run("s_load", {"src": ([5, 6, 7], "int8"), "index": ([3], "int32")}, counts(1), ((1,), "int8"))


@pytest.mark.parametrize("op", sorted(CONTROL))
def test_control_has_no_value_and_its_cost(isa, op):
    """npu-v2: scalar issue 1; the scalar queue pays it for control entries, for branches once each."""
    assert OPCODES[op].semantics is None
    attrs = dict(CONTROL[op])
    if op == "barrier":
        from dsa_compiler.program.builder import ProgramBuilder

        builder = ProgramBuilder(isa.target)
        builder.add(op, attrs=attrs, engine="scalar", group=0)
        program = builder.build()
    else:
        program = isa.program(op, {}, attrs)
    validate_program(program)
    cost = entry_costs(program)[0]
    assert (cost["startup"], cost["work"]) == {"s_branch": (0, 3), "s_loop": (0, 8)}.get(op, (1, 0))
