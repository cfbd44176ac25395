"""The constructors of kernels' TIR decide what can be decided when they are called."""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.tirx import For, IfThenElse, SeqStmt

from dsa_compiler.lower.tir import (
    allocate,
    below,
    buffer,
    cast,
    constant,
    core_loop,
    function,
    integer,
    is_zero,
    loop,
    nest,
    sequence,
    store,
    tile_loop,
    when,
)

OUT = buffer("out", (4, 6), "float32", "l1")


def one(*at: object) -> object:
    return store(OUT, list(at), constant(1.0, "float32"))


def test_scopes_are_tags() -> None:
    assert str(OUT.scope()) == "global.l1"
    assert str(buffer("x", (4,), "float16").scope()) in ("", "global")
    assert [int(s) for s in OUT.shape] == [4, 6]


def test_loops_of_one_iteration_are_not_made() -> None:
    made = nest([("i", 4), ("j", 1)], one)
    assert isinstance(made, For) and not isinstance(made.body, For)
    assert isinstance(loop("i", 2, lambda i: one(i, i)), For)
    assert not isinstance(loop("i", 1, lambda i: one(i, i)), For)


def test_annotations() -> None:
    assert int(tile_loop("t", 3, lambda t: one(t, t)).annotations["dsac.tile"]) == 1
    assert int(core_loop("c", 3, 5, lambda c: one(c, c)).annotations["dsac.core"]) == 5
    assert int(allocate(OUT, 3).annotations["dsac.ring"]) == 3


def test_sequences_are_flat() -> None:
    a, b, c = (one(integer(i), integer(0)) for i in range(3))
    made = sequence(a, None, sequence(b, c))
    assert isinstance(made, SeqStmt) and len(made.seq) == 3
    assert sequence(a, None).same_as(a)
    assert int(sequence().value) == 0


def test_conditions_that_are_known() -> None:
    body, other = one(integer(0), integer(0)), one(integer(1), integer(1))
    v = tirx.Var("v", "int64")
    assert when([True, True], body).same_as(body)
    assert when([True, False], body, other).same_as(other)
    assert int(when([False], body).value) == 0
    made = when([v < integer(3), True, v > integer(1)], body, other)
    assert isinstance(made, IfThenElse) and str(made.condition) == "v < T.int64(3) and v > T.int64(1)"


def test_bounds_and_zeros() -> None:
    v = tirx.Var("v", "int64")
    assert below(v, 8, 7) is True
    assert str(below(v, 8, 8)) == "v < T.int64(8)"
    assert is_zero(integer(0)) is True and is_zero(integer(2)) is False
    assert str(is_zero(v)) == "v == T.int64(0)"


def test_casts_only_where_needed() -> None:
    x = constant(1.0, "float32")
    assert cast(x, "float32").same_as(x)
    assert str(cast(tirx.Var("h", "float16"), "float32")) == 'T.Cast("float32", h)'


def test_functions_compile() -> None:
    dst = buffer("y", (4, 6), "float32")
    func = function(
        "main", [dst], nest([("i", 4), ("j", 6)], lambda i, j: store(dst, [i, j], cast(i * 6 + j, "float32")))
    )
    tvm.compile(tvm.IRModule({"main": func}), target="llvm")
