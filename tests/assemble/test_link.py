"""Kernels joined into programs: barriers, flags of their own entries, ddr on one core, legality, races, values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_compiler.assemble.link import MOST_FLAGS, Stream, link
from dsa_compiler.errors import Infeasible
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.lower.tir import allocate, buffer, core_loop, integer, sequence, tile_loop, when
from dsa_compiler.program.tables import ENGINE_CODE, Binding, Program
from dsa_compiler.simulator.machine import simulate
from dsa_compiler.simulator.race import analyse_order
from dsa_compiler.target import Target
from tests.assemble.kernels import at, call_of, issue, program_of, trace_of
from tests.lower.drawing import drawn
from tests.lower.parts import changed, part

ONE, FOUR, EDGE = part("single"), part("four"), part("npu-edge")
ROWS, COLUMNS = 16, 32
SIZE = ROWS * COLUMNS * 2
A, B = buffer("a", (ROWS, COLUMNS), "float16"), buffer("b", (ROWS, COLUMNS), "float16")


def names(program: Program) -> list[str]:
    return [BY_CODE[int(e["opcode"])].name for e in program.entries]


def tile(name: str, rows: int = 4, scope: str = "l1", dtype: str = "float16") -> Any:
    return buffer(name, (rows, COLUMNS), dtype, scope)


def whole(role: str, made: Any, row: Any = 0, rows: int = 4) -> Any:
    return at(role, made, (integer(row) if isinstance(row, int) else row, integer(0)), (rows, COLUMNS))


def relu_kernel(cores: int, source: Any = A, result: Any = B, reverse: bool = False) -> Any:
    """result = relu(source), four rows at a time, shared by cores; in reverse by other cores than wrote them."""
    steps = ROWS // 4 // cores
    t, u = tile("t1"), tile("u1")

    def step(c: Any, i: Any) -> Any:
        row = (c * steps + i) * 4
        if reverse:
            row = integer(ROWS - 4) - row
        return sequence(
            allocate(t, 2),
            issue("load", whole("dst", t), whole("src", source, row)),
            allocate(u, 2),
            issue("relu", whole("dst", u), whole("src", t)),
            issue("store", whole("dst", result, row), whole("src", u)),
        )

    return core_loop("c", cores, 1, lambda c: tile_loop("i", steps, lambda i: step(c, i)))


def chain(target: Target, cores: int, kernels: int) -> tuple[Program, np.ndarray]:
    """Kernels that write a, b, a, ... in turn from constant values at the start of ddr."""
    values = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float16)
    calls = []
    for number in range(kernels):
        trace = trace_of(target, [A, B], relu_kernel(cores, reverse=bool(number % 2)))
        calls.append(
            replace(call_of(trace, number * SIZE, (number + 1) * SIZE, constant=(number == 0, False)), number=number)
        )
    output = Binding("y", kernels * SIZE, (ROWS, COLUMNS), "float16")
    stream = link(calls, target)
    return program_of(target, stream, (kernels + 1) * SIZE, [(0, values)], [output]), np.maximum(values, 0)


def require_right(program: Program, expected: np.ndarray, seeds: Sequence[int] = (1, 2, 3)) -> None:
    """Legal, free of races, right in values, and the same bits whatever the times."""
    result = simulate(program, {})
    assert result.outputs is not None and np.array_equal(result.outputs["y"], expected, equal_nan=True)
    for seed in seeds:
        again = simulate(program, {}, race_seed=seed, check=False).outputs
        assert again is not None and np.array_equal(again["y"].view(np.uint8), result.outputs["y"].view(np.uint8))


@pytest.mark.parametrize("kernels", [1, 2, 3])
def test_one_core_follows_bytes_in_ddr(kernels: int) -> None:
    program, expected = chain(ONE, 1, kernels)
    assert "barrier" not in names(program)
    require_right(program, expected)


@pytest.mark.parametrize("kernels", [1, 2, 3])
@pytest.mark.parametrize("cores", [2, 4])
def test_cores_meet_at_barriers(kernels: int, cores: int) -> None:
    program, expected = chain(FOUR, cores, kernels)
    assert names(program).count("barrier") == (kernels - 1) * FOUR.cores
    require_right(program, expected)


def test_barriers_of_one_cluster() -> None:
    program, expected = chain(part("plain"), 2, 2)
    barriers = [program.attrs[e["attrs"]] for e in program.entries if BY_CODE[int(e["opcode"])].name == "barrier"]
    assert {b["scope"] for b in barriers} == {"cluster"} and all(b["queues"] == ["scalar"] for b in barriers)
    require_right(program, expected)
    chip, _ = chain(FOUR, 2, 2)
    assert {chip.attrs[e["attrs"]].get("scope") for e in chip.entries if e["group"] >= 0} == {"chip"}


def test_each_pair_of_kernels_has_its_own_group() -> None:
    program, _ = chain(FOUR, 4, 3)
    barrier = np.array([n == "barrier" for n in names(program)])
    groups = program.entries["group"][barrier]
    assert len(np.unique(groups)) == 2
    assert sorted(np.bincount(groups - groups.min()).tolist()) == [FOUR.cores] * 2


def test_constants_are_loaded_before_the_barrier() -> None:
    """The second kernel's first load reads weights: it need not wait for the first kernel's stores."""
    w, t, u = buffer("w", (ROWS, COLUMNS), "float16"), tile("t1"), tile("w1")

    def add(c: Any) -> Any:
        row = c * 4
        return sequence(
            allocate(u),
            issue("load", whole("dst", u), whole("src", w, row)),
            allocate(t),
            issue("load", whole("dst", t), whole("src", A, row)),
            issue("add", whole("dst", t), whole("src", t), whole("src2", u)),
            issue("store", whole("dst", B, row), whole("src", t)),
        )

    first = call_of(trace_of(FOUR, [A, B], relu_kernel(4)), 0, SIZE, constant=(True, False))
    second = call_of(
        trace_of(FOUR, [A, B, w], core_loop("c", 4, 1, add)), SIZE, 2 * SIZE, 3 * SIZE, constant=(False, False, True)
    )
    stream = link([first, replace(second, number=1)], FOUR)
    values = np.random.default_rng(1).standard_normal((2, ROWS, COLUMNS)).astype(np.float16)
    program = program_of(
        FOUR,
        stream,
        4 * SIZE,
        [(0, values[0]), (3 * SIZE, values[1])],
        [Binding("y", 2 * SIZE, (ROWS, COLUMNS), "float16")],
    )
    mine = program.entries[(program.entries["core"] == 0) & (program.entries["cluster"] == 0)]
    loads = [BY_CODE[int(e["opcode"])].name for e in mine if e["engine"] == ENGINE_CODE["load"]]
    assert loads == ["load", "load", "load"]
    waits = [int(e["waits"]) for e in mine if e["engine"] == ENGINE_CODE["load"]]
    assert waits[1] == 0 and waits[2] > 0  # the weights pass the barrier, what the first kernel wrote does not
    require_right(
        program, (np.maximum(values[0], 0).astype(np.float32) + values[1].astype(np.float32)).astype(np.float16)
    )


def test_members_of_a_multicast_are_on_one_side_of_a_barrier() -> None:
    """Core 0 loads shared weights first, the others something that the first kernel wrote: no core may wait apart."""
    w, t, u = buffer("w", (ROWS, COLUMNS), "float16"), tile("t1"), tile("w1")

    def add(c: Any) -> Any:
        mine = issue("load", whole("dst", t), whole("src", A, c * 4))
        shared = issue("load", whole("dst", u), whole("src", w))
        return sequence(
            allocate(u), allocate(t), when([c > 0], mine), shared, when([c < 1], mine),
            issue("add", whole("dst", t), whole("src", t), whole("src2", u)),
            issue("store", whole("dst", B, c * 4), whole("src", t)),
        )  # fmt: skip

    first = call_of(trace_of(FOUR, [A, B], relu_kernel(4)), 0, SIZE, constant=(True, False))
    trace = trace_of(FOUR, [A, B, w], core_loop("c", 4, 1, add))
    second = call_of(trace, SIZE, 2 * SIZE, 3 * SIZE, constant=(False, False, True))
    stream = link([first, replace(second, number=1)], FOUR)
    values = np.random.default_rng(1).standard_normal((2, ROWS, COLUMNS)).astype(np.float16)
    output = Binding("y", 2 * SIZE, (ROWS, COLUMNS), "float16")
    program = program_of(FOUR, stream, 4 * SIZE, [(0, values[0]), (3 * SIZE, values[1])], [output])
    weights = np.tile(values[1][:4].astype(np.float32), (4, 1))
    require_right(program, (np.maximum(values[0], 0).astype(np.float32) + weights).astype(np.float16))


def test_segments_need_no_barrier() -> None:
    """A host step stands between the kernels: every queue runs out before it."""
    traces = [trace_of(FOUR, [A, B], relu_kernel(4)) for _ in range(2)]
    calls = [
        replace(call_of(t, i * SIZE, (i + 1) * SIZE, constant=(i == 0, False)), number=i, segment=i)
        for i, t in enumerate(traces)
    ]
    stream = link(calls, FOUR)
    assert OP_BARRIER not in stream.entries["opcode"].tolist()
    assert sorted(set(stream.entries["segment"].tolist())) == [0, 1]


OP_BARRIER = next(code for code, d in BY_CODE.items() if d.name == "barrier")


def test_nothing_to_link() -> None:
    stream = link([], FOUR)
    assert (
        isinstance(stream, Stream)
        and len(stream.entries) == len(stream.operands) == len(stream.flags) == 0
        and stream.attrs == ({},)
    )


def test_nodes_and_kernels_of_entries() -> None:
    trace = trace_of(ONE, [A, B], relu_kernel(1))
    stream = link(
        [replace(call_of(trace, 0, SIZE, node=7), number=0), replace(call_of(trace, SIZE, 0, node=9), number=1)], ONE
    )
    half = len(stream.entries) // 2
    assert stream.entries["node"].tolist() == [7] * half + [9] * half
    assert stream.entries["kernel"].tolist() == [0] * half + [1] * half


def test_kernels_fill_l1_from_both_ends() -> None:
    trace = trace_of(ONE, [A, B], relu_kernel(1))
    stream = link([call_of(trace, 0, SIZE), replace(call_of(trace, SIZE, 0), number=1)], ONE)
    l1 = stream.operands["scope"] == 2
    middle = ONE.memory["l1"].size // 2
    half = len(stream.operands) // 2
    assert (stream.operands["address"][:half][l1[:half]] < middle).all()
    assert (stream.operands["address"][half:][l1[half:]] >= middle).all()


def test_buffers_that_do_not_fit_are_refused() -> None:
    t = buffer("t1", (64, 4096), "float16", "l1")
    big = buffer("big", (64, 4096), "float16")
    load = issue(
        "load", at("dst", t, (integer(0), integer(0)), (64, 4096)), at("src", big, (integer(0), integer(0)), (64, 4096))
    )
    trace = trace_of(part("tiny"), [big], sequence(allocate(t), load), "large")
    with pytest.raises(Infeasible, match=r"^\[large\] l1: 524288 needed, 16384 available$"):
        link([call_of(trace, 0)], part("tiny"))


# ---- more flags than an entry may carry ----------------------------------------------------------------------
def crowded() -> tuple[Any, list[Any], np.ndarray, np.ndarray]:
    """An fma that waits for five engines, and that five engines wait for.

    Before it load, scalar, matrix (l0c), store and move use what it reads or writes; after it they do so again.
    """
    row = buffer("row", (1, 16), "float16")
    kept, out = buffer("kept", (1, 16), "float16"), buffer("out", (1, 16), "float16")
    table = buffer("table", (1, 16), "int32")
    d, x, a1 = (buffer(n, (1, 16), "float16", "l1") for n in ("d1", "x1", "a1"))
    s, s2 = buffer("s1", (1, 16), "int32", "l1"), buffer("s2", (1, 16), "int32", "l1")
    a0, other = (buffer(n, (1, 16), "float16", "l0a") for n in ("a0", "other0"))
    b0 = buffer("b0", (16, 16), "float16", "l0b")
    c0 = buffer("c0", (1, 16), "float32", "l0c")
    z = integer(0)

    def full(role: str, made: Any) -> Any:
        return at(role, made, (z, z), (1, 16))

    def cell(role: str, made: Any) -> Any:
        return at(role, made, (z, z), (1,), (1,))

    def product() -> list[Any]:
        return [
            issue("move_a", full("dst", a0), full("src", a1)),
            issue("matmul", full("dst", c0), full("lhs", a0), at("rhs", b0, (z, z), (16, 16))),
        ]

    body = sequence(
        *(allocate(m) for m in (d, x, a1, s, s2, a0, other, b0, c0)),
        issue("load", full("dst", a1), full("src", row)),
        issue("load", full("dst", s), full("src", table)),
        issue("load", full("dst", d), full("src", row)),
        *(issue("move_b", at("dst", b0, (integer(r), z), (1, 16)), full("src", a1)) for r in range(16)),
        *product(),
        issue("store", full("dst", kept), full("src", d)),
        issue("move_a", full("dst", other), full("src", d)),
        issue("s_move", cell("dst", s2), cell("src", s), ops=1, control=0),
        issue("load", full("dst", x), full("src", row)),
        issue("fma", full("dst", d), full("src", x), full("src2", c0), at("src3", s2, (z, z), (1, 16), (16, 0))),
        issue("store", full("dst", out), full("src", d)),
        issue("load", full("dst", x), full("src", row)),
        issue("s_move", cell("dst", s2), cell("src", s), ops=1, control=0),
        issue("move_a", full("dst", other), full("src", d)),
        issue("matmul", full("dst", c0), full("lhs", a0), at("rhs", b0, (z, z), (16, 16))),
    )
    values = np.linspace(-1, 1, 16).astype(np.float16)
    table_values = np.arange(3, 19, dtype=np.int32)
    wide = values.astype(np.float32)
    product_row = wide @ np.tile(wide, (16, 1))
    return (
        trace_of(EDGE, [row, kept, out, table], body),
        [values, table_values],
        values,
        (wide * product_row + 3.0).astype(np.float16),
    )


def crowded_program() -> tuple[Program, np.ndarray]:
    trace, (values, table), _, expected = crowded()
    stream = link([call_of(trace, 0, 64, 128, 192, constant=(True, False, False, True))], EDGE)
    return program_of(EDGE, stream, 256, [(0, values), (192, table)], [Binding("y", 128, (16,), "float16")]), expected


def test_more_than_four_flags_get_entries_of_their_own() -> None:
    program, expected = crowded_program()
    entries = program.entries
    assert entries["waits"].max() <= MOST_FLAGS and entries["sets"].max() <= MOST_FLAGS
    found = names(program)
    place = found.index("fma")
    assert found[place - 1] == "wait" and found[place + 1] == "set"
    assert entries["waits"][place - 1] + entries["waits"][place] == 5
    assert entries["sets"][place + 1] + entries["sets"][place] == 5
    vector = ENGINE_CODE["vector"]
    assert entries["engine"][place - 1] == entries["engine"][place + 1] == vector
    assert entries["operands"][place - 1] == entries["operands"][place + 1] == 0
    require_right(program, expected)


def test_every_flag_is_set_as_often_as_it_is_waited_for() -> None:
    for program in (crowded_program()[0], chain(FOUR, 4, 3)[0], chain(ONE, 1, 3)[0]):
        counts: dict[tuple[int, ...], int] = {}
        for e in program.entries:
            for first, number, step in ((e["set"], e["sets"], 1), (e["wait"], e["waits"], -1)):
                for f in program.flags[int(first) : int(first) + int(number)]:
                    key = (int(e["cluster"]), int(e["core"]), int(f["source"]), int(f["target"]), int(f["number"]))
                    counts[key] = counts.get(key, 0) + step
        assert set(counts.values()) <= {0}


def without(program: Program, entry: int, place: int) -> Program:
    """The program without one set and the wait that takes it."""
    entries = program.entries.copy()
    flag = program.flags[int(entries["set"][entry]) + place].copy()
    order = 0
    for e in range(entry):
        if entries["core"][e] == entries["core"][entry] and entries["cluster"][e] == entries["cluster"][entry]:
            order += sum(
                bool(f == flag)
                for f in program.flags[int(entries["set"][e]) : int(entries["set"][e]) + int(entries["sets"][e])]
            )
    flags = [program.flags]
    base = len(program.flags)
    for first, count, skip in (("set", "sets", [(entry, place)]), ("wait", "waits", None)):
        if skip is None:
            skip = [nth_wait(program, entry, flag, order)]
        for e, drop in skip:
            rows = program.flags[int(entries[first][e]) : int(entries[first][e]) + int(entries[count][e])]
            flags.append(np.delete(rows, drop))
            entries[first][e], entries[count][e] = base, len(rows) - 1
            base += len(rows) - 1
    return replace(program, entries=entries, flags=np.concatenate(flags))


def nth_wait(program: Program, entry: int, flag: np.ndarray, order: int) -> tuple[int, int]:
    """(entry, place) of the wait of `flag` that takes its `order`-th set, on the core of `entry`."""
    entries = program.entries
    for e in range(len(entries)):
        if entries["core"][e] != entries["core"][entry] or entries["cluster"][e] != entries["cluster"][entry]:
            continue
        for place in range(int(entries["waits"][e])):
            if program.flags[int(entries["wait"][e]) + place] == flag:
                if order == 0:
                    return e, place
                order -= 1
    raise AssertionError("no wait takes this set")


MAKERS: dict[str, Callable[[], Program]] = {
    "crowded": lambda: crowded_program()[0],
    "one core": lambda: chain(ONE, 1, 2)[0],
    "two cores": lambda: chain(FOUR, 2, 2)[0],
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_flag_is_needed(name: str) -> None:
    """Without any one of its dependences the program has a race."""
    program = MAKERS[name]()
    assert not analyse_order(program).findings
    for entry in range(len(program.entries)):
        for place in range(int(program.entries["sets"][entry])):
            report = analyse_order(without(program, entry, place))
            assert report.findings or report.deadlock, f"set {place} of entry {entry} is not needed"


# ---- random kernels ------------------------------------------------------------------------------------------
@st.composite
def random_kernels(draw: st.DrawFn) -> list[tuple[str, int, int, int]]:
    """Loads of rows of ddr into five tiles, arithmetic on tiles, stores to ddr; (what, destination, source, source)."""
    numbers = st.integers(0, 4)
    rows = st.integers(0, ROWS // 4 - 1)
    steps: list[tuple[str, int, int, int]] = [("load", i, i % 4, 0) for i in range(5)]
    for _ in range(draw(st.integers(4, 30))):
        kind = draw(st.sampled_from(["load", "store", "add", "relu", "mul"]))
        if kind == "load":
            steps.append((kind, draw(numbers), draw(rows), 0))
        elif kind == "store":
            steps.append((kind, draw(rows), draw(numbers), 0))
        else:
            a, b, c = draw(st.permutations(range(5)))[:3]
            steps.append((kind, a, b, c))
    return steps


def play(steps: Sequence[tuple[str, int, int, int]], memory: np.ndarray) -> None:
    """The steps in order, by NumPy; memory is [rows of tiles, 4, columns]."""
    tiles = np.zeros((5, 4, COLUMNS), np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        _play(steps, memory, tiles)


def _play(steps: Sequence[tuple[str, int, int, int]], memory: np.ndarray, tiles: np.ndarray) -> None:
    for kind, a, b, c in steps:
        if kind == "load":
            tiles[a] = memory[b]
        elif kind == "store":
            memory[a] = tiles[b]
        elif kind == "relu":
            tiles[a] = np.maximum(tiles[b], 0)
        else:
            x, y = tiles[b].astype(np.float32), tiles[c].astype(np.float32)
            tiles[a] = (x + y if kind == "add" else x * y).astype(np.float16)


def random_trace(target: Target, steps: Sequence[tuple[str, int, int, int]]) -> Any:
    tiles = [tile(f"t{i}") for i in range(5)]
    body: list[Any] = [allocate(t) for t in tiles]
    for kind, a, b, c in steps:
        if kind == "load":
            body.append(issue("load", whole("dst", tiles[a]), whole("src", A, 4 * b)))
        elif kind == "store":
            body.append(issue("store", whole("dst", A, 4 * a), whole("src", tiles[b])))
        elif kind == "relu":
            body.append(issue("relu", whole("dst", tiles[a]), whole("src", tiles[b])))
        else:
            body.append(issue(kind, whole("dst", tiles[a]), whole("src", tiles[b]), whole("src2", tiles[c])))
    return trace_of(target, [A], sequence(*body))


@drawn(40)
@given(st.lists(random_kernels(), min_size=1, max_size=3), st.sampled_from([4, 16]))
def test_any_kernels_on_one_core(kernels: list[list[tuple[str, int, int, int]]], flags: int) -> None:
    """What one kernel stores another loads; all in the order of the program."""
    target = changed(EDGE, **{"sync.flags": flags})
    values = np.random.default_rng(3).uniform(-1, 1, (ROWS // 4, 4, COLUMNS)).astype(np.float16)
    expected = values.copy()
    calls = []
    for number, steps in enumerate(kernels):
        play(steps, expected)
        calls.append(replace(call_of(random_trace(target, steps), 0), number=number))
    program = program_of(
        target, link(calls, target), SIZE, [(0, values)], [Binding("y", 0, (ROWS // 4, 4, COLUMNS), "float16")]
    )
    require_right(program, expected, seeds=(1, 2))


def test_only_the_last_rows_depend_on_others() -> None:
    """Kernels on one core overlap: the second one's first load waits for the store of its own rows alone."""
    program, _ = chain(ONE, 1, 2)
    waits = [int(e["waits"]) for e in program.entries if BY_CODE[int(e["opcode"])].name == "load"]
    assert sum(waits) <= 2 * len(waits)


@pytest.mark.parametrize("target", [ONE, FOUR], ids=["one core", "four cores"])
def test_a_gather_waits_for_its_index_through_the_scalar_queue(target: Target) -> None:
    """The index is loaded by the queue that gathers: no flag joins a queue with itself."""
    index, rows = buffer("index", (8,), "int32"), buffer("rows", (8, COLUMNS), "float16")
    i1, r1 = buffer("i1", (8,), "int32", "l1"), tile("r1", 8)
    body = sequence(
        allocate(i1), allocate(r1),
        issue("load", at("dst", i1, (0,), (8,)), at("src", index, (0,), (8,))),
        issue("load_gather", whole("dst", r1, rows=8), whole("src", A, rows=ROWS), at("index", i1, (0,), (8,))),
        issue("store", whole("dst", rows, rows=8), whole("src", r1, rows=8)),
    )  # fmt: skip
    trace = trace_of(target, [index, A, rows], core_loop("c", 1, 1, lambda c: body))
    chosen = np.array([3, 3, 0, 15, 7, 1, 2, 9], np.int32)
    values = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float16)
    call = call_of(trace, 0, 64, 64 + SIZE, constant=(True, True, False))
    output = Binding("y", 64 + SIZE, (8, COLUMNS), "float16")
    program = program_of(target, link([call], target), 64 + 2 * SIZE, [(0, chosen), (64, values)], [output])
    assert names(program).count("wait") == 1
    require_right(program, values[chosen])


def test_a_fill_over_loaded_rows_waits_for_the_load() -> None:
    """The fill completes at once, the load a latency later: without an order the load would win."""
    t, result = tile("t1", ROWS), buffer("result", (ROWS, COLUMNS), "float16")
    body = sequence(
        allocate(t),
        issue("load", whole("dst", t, rows=ROWS), whole("src", A, rows=ROWS)),
        issue("load_fill", whole("dst", t, rows=4), value=2.0),
        issue("store", whole("dst", result, rows=ROWS), whole("src", t, rows=ROWS)),
    )
    trace = trace_of(ONE, [A, result], core_loop("c", 1, 1, lambda c: body))
    values = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float16)
    output = Binding("y", SIZE, (ROWS, COLUMNS), "float16")
    call = call_of(trace, 0, SIZE, constant=(True, False))
    program = program_of(ONE, link([call], ONE), 2 * SIZE, [(0, values)], [output])
    require_right(program, np.concatenate([np.full((4, COLUMNS), 2.0, np.float16), values[4:]]))
