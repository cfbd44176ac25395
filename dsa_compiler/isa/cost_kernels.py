"""The compiled loop over entries that counts their time; `isa.cost` is its face, `isa.bursts` counts bursts.

Codes of scopes, engines, dtypes, roles and kinds are places in `SCOPES`, `ENGINES`, `DTYPES`, `ROLES` and `KINDS`.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from dsa_compiler.isa.bursts import (
    bank_mask,
    describe_rows,
    describe_side,
    describe_window,
    grid_bytes,
    merge_rows,
    place_of,
    planes_abut,
    row_bytes,
    uneven_bytes,
    worst_row_bytes,
)
from dsa_compiler.isa.compiled import borrow
from dsa_compiler.isa.cost_tables import Machine
from dsa_compiler.isa.definition import ROLE_CODE
from dsa_compiler.target import ENGINES, SCOPES

_INNER = {
    "cache": True, "error_model": "numpy", "no_cfunc_wrapper": True, "no_cpython_wrapper": True, "forceinline": True,
}  # fmt: skip

ENTRY_COLUMNS = ("opcode", "engine", "attrs", "operand", "operands", "wait", "waits", "set", "sets")
OPERAND_COLUMNS = ("role", "scope", "dtype", "rank", "address", "extents", "strides")

_DDR, _LLB, _L1 = (SCOPES.index(s) for s in ("ddr", "llb", "l1"))
_LOAD, _SCALAR = ENGINES.index("load"), ENGINES.index("scalar")
_DST, _ACC, _SRC, _LHS, _INDEX, _TABLE, _TAPS = (
    ROLE_CODE[r] for r in ("dst", "acc", "src", "lhs", "index", "table", "taps")
)
_SRC2 = ROLE_CODE["src2"]
_CONTROL, _COPY, _PAD, _FILL, _TRANSPOSE, _BY_INDEX, _ROUND, _IMG2COL, _MATRIX = range(9)
_VECTOR, _SCAN, _WINDOWED, _MERGE, _SCALAR_KIND = range(9, 14)


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _counts_on_source(m: Any, src_scope: int, dst_scope: int) -> bool:
    """The larger burst counts; if equal, the side nearer ddr."""
    src, dst = m.burst[src_scope], m.burst[dst_scope]
    return src > dst or (src == dst and src_scope < dst_scope)


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _run(m: Any, op: Any, o: int) -> int:
    """Elements of a contiguous run of an operand."""
    return merge_rows(op[5][o], op[6][o], op[3][o], m.bits[op[2][o]])[0]


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _side(m: Any, op: Any, grid: np.ndarray, o: int, other: int) -> int:
    """Describe one side of a copy; bytes if its runs had to be walked, else 0."""
    _, scope, dtype, rank, address, extents, strides = op
    bits, burst = m.bits[dtype[o]], m.burst[scope[o]]
    if describe_side(grid, address[o], extents[o], strides[o], rank[o], bits, other, burst):
        return 0
    describe_rows(grid, 0, 0, 0, 0, 1, burst)
    return uneven_bytes(address[o], extents[o], strides[o], rank[o], bits, other, burst)


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _abutting(m: Any, op: Any, grid: np.ndarray, o: int, other: int) -> int:
    """Bytes of operand `o` of a copy from or to `other`, if planes of one abut; else -1.

    The last row of a plane and the first of the next are then one run where both sides go on without a gap: runs are
    walked, for the closed form does not see it.
    """
    _, scope, dtype, rank, address, extents, strides = op
    bits, burst = m.bits[dtype[o]], m.burst[scope[o]]
    if not (
        planes_abut(extents[o], strides[o], rank[o], bits)
        or planes_abut(extents[other], strides[other], rank[other], m.bits[dtype[other]])
    ):
        return -1
    run, opposite = _run(m, op, o), _run(m, op, other)
    total, done, bursts = 1, 0, 0
    for axis in range(rank[o]):
        total *= extents[o, axis]
    start, end, end_other = 0, -1, -1
    while done < total:
        stop = min((done // run + 1) * run, (done // opposite + 1) * opposite)
        here = place_of(done, address[o], extents[o], strides[o], rank[o], bits)
        there = place_of(done, address[other], extents[other], strides[other], rank[other], bits)
        if here != end or there != end_other:
            bursts += 0 if end < 0 else (end - 1) // burst - start // burst + 1
            start = here
        end, end_other = here + row_bytes(stop - done, bits), there + row_bytes(stop - done, bits)
        done = stop
    describe_rows(grid, 0, 0, 0, 0, 1, burst)
    return (bursts + (end - 1) // burst - start // burst + 1) * burst


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _operand_bytes(m: Any, op: Any, o: int) -> int:
    """Bytes that the elements of an operand take, repetitions included."""
    _, _, dtype, rank, _, extents, _ = op
    elements = 1
    for axis in range(rank[o]):
        elements *= extents[o, axis]
    return row_bytes(elements, m.bits[dtype[o]])


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _by_index(m: Any, op: Any, grid: np.ndarray, s: int, d: int, rows: int) -> int:
    """A gather (the source is indexed) or scatter (the destination is): a run for each row."""
    _, scope, dtype, rank, address, extents, strides = op
    indexed, dense = (s, d) if scope[s] < scope[d] else (d, s)
    length = row_bytes(extents[dense, rank[dense] - 1], m.bits[dtype[s]])
    if m.burst[scope[indexed]] >= m.burst[scope[dense]]:
        return worst_row_bytes(address[indexed], strides[indexed], rank[indexed], length, rows, m.burst[scope[indexed]])
    describe_rows(grid, address[dense], strides[dense, 0], rows, 1, length, m.burst[scope[dense]])
    return 0


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _img2col(m: Any, op: Any, grid: np.ndarray, s: int, d: int, window: np.ndarray) -> int:
    """Describe the runs of taps of a window walk; the bytes of the padded l0a rows, which are the least."""
    _, scope, dtype, _, address, extents, strides = op
    bits, align, rows = m.bits[dtype[s]], m.alignment[scope[d]], extents[d, 0]
    pixel = row_bytes(extents[s, 2], bits)
    if _counts_on_source(m, scope[s], scope[d]):
        wide = _grid_width(extents[s, 1], window, rows)
        describe_window(grid, address[s], strides[s], rows // wide, wide, window, pixel, m.burst[scope[s]])
    else:
        tight = window[1] == 1 or strides[s, 1] * window[5] == pixel
        run, pieces = (pixel * window[1], window[0]) if tight else (pixel, window[0] * window[1])
        describe_rows(grid, address[d], strides[d, 0], rows, pieces, run, m.burst[scope[d]])
    return rows * ((row_bytes(extents[d, 1], bits) + align - 1) // align * align)


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _grid_width(width: int, window: np.ndarray, rows: int) -> int:
    """Columns of the window grid; `window` holds left and right padding in places 7 and 8."""
    wide = (width + window[7] + window[8] - window[5] * (window[1] - 1) - 1) // window[3] + 1
    return max(1, min(wide, rows))


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _widest(m: Any, op: Any, first: int, count: int, factor: float) -> float:
    """The greatest sum over operands of row overheads and vectors times `factor`."""
    role, _, dtype, rank, _, extents, _ = op
    width, overhead = m.numbers[0], m.numbers[1]
    worst = 0.0
    for o in range(first, first + count):
        if role[o] == _TABLE or role[o] == _TAPS:
            continue
        rows = _rows(extents[o], rank[o])
        vectors = math.ceil(row_bytes(extents[o, rank[o] - 1], m.bits[dtype[o]]) / width)
        worst = max(worst, rows * (overhead + vectors * factor))
    return worst


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _rows(extents: np.ndarray, rank: int) -> int:
    """Innermost rows of an operand."""
    rows = 1
    for axis in range(rank - 1):
        rows *= extents[axis]
    return rows


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _log_lanes(m: Any, dtype: int) -> float:
    """log2 of the elements in one vector."""
    return max(0.0, math.log2(m.numbers[0] * 8 / m.bits[dtype]))


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _window_cycles(m: Any, op: Any, s: int, d: int, taps: int) -> float:
    """A simple operation for each tap and contiguous run of the result, the widest dtype counting."""
    _, _, dtype, rank, _, extents, strides = op
    run, left = merge_rows(extents[d], strides[d], rank[d], m.bits[dtype[d]])
    runs = 1
    for axis in range(left):
        runs *= extents[d, axis]
    widest = max(m.bits[dtype[s]], m.bits[dtype[d]])
    vectors = math.ceil(row_bytes(run, widest) / m.numbers[0])
    return taps * runs * (m.numbers[1] + vectors * m.numbers[2])


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _merge_cycles(m: Any, op: Any, first: int, count: int) -> float:
    """A top-k merge: 2 log2(lanes) for each vector of both sources, rows of the widest operand."""
    role, _, dtype, rank, _, extents, _ = op
    rows, vectors, factor = 0, 0.0, 0.0
    for o in range(first, first + count):
        own = _rows(extents[o], rank[o])
        rows = max(rows, own)
        if role[o] == _SRC or role[o] == _SRC2:
            vectors += own * math.ceil(row_bytes(extents[o, rank[o] - 1], m.bits[dtype[o]]) / m.numbers[0])
            factor = max(factor, 2 * _log_lanes(m, dtype[o]))
    return rows * m.numbers[1] + vectors * factor


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _matrix_cycles(m: Any, op: Any, lhs: int, d: int, sparse: bool) -> float:
    """Steps of the unit of the left dtype; -1 where the part has none."""
    _, _, dtype, _, _, extents, _ = op
    um, un, uk = m.unit[dtype[lhs]]
    if um == 0:
        return -1.0
    if sparse:
        uk *= 2
    return float(
        ((extents[d, 0] + um - 1) // um) * ((extents[d, 1] + un - 1) // un) * ((extents[lhs, 1] + uk - 1) // uk)
    )


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _dma_bytes(
    m: Any, op: Any, grids: np.ndarray, kind: int, s: int, d: int, index: int, is_load: bool, a: np.ndarray
) -> float:
    """Bytes of a transfer: the greatest of its least and of what each side described in `grids` touches."""
    least, here, there, other, second = 0, s, -1, 0, 0
    if kind == _COPY:
        here = s if _counts_on_source(m, op[1][s], op[1][d]) else d
        other = _run(m, op, d if here == s else s)
    elif kind == _PAD:
        other = merge_rows(op[5][s], op[6][d], op[3][s], m.bits[op[2][s]])[0]
        least, there = _operand_bytes(m, op, d), -1 if is_load else d
    elif kind == _ROUND:
        other, there, second = _run(m, op, d), d, _run(m, op, s)
    elif kind == _FILL:
        least, here = _operand_bytes(m, op, d), -1
    elif kind in (_BY_INDEX, _IMG2COL):
        here = -1
    used = 0
    if kind == _BY_INDEX:
        least = _by_index(m, op, grids[0], s, d, op[5][index, 0])
        used = 1 if least == 0 else 0
    elif kind == _IMG2COL:
        least = _img2col(m, op, grids[0], s, d, a[4:13])
        used = 1
    walked = -1
    if kind == _COPY:
        walked = _abutting(m, op, grids[used], here, d if here == s else s)
    for o, end in ((here, other), (there, second)):
        if o >= 0:
            least = max(least, walked if walked >= 0 else _side(m, op, grids[used], o, end))
            used += 1
    for g in range(used):
        least = max(least, grid_bytes(grids[g]))
    return float(least)


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _cycles(m: Any, op: Any, kind: int, code: int, places: Any, first: int, count: int, a: np.ndarray) -> float:
    """Cycles of a matrix, vector or scalar instruction without startup."""
    _, _, dtype, rank, _, extents, _ = op
    s, d, lhs, index = places
    if kind == _MATRIX:
        return _matrix_cycles(m, op, lhs, d, index >= 0)
    if kind == _SCALAR_KIND:
        return a[1] * m.numbers[4] + a[2] * m.numbers[3]
    if kind == _WINDOWED:
        return _window_cycles(m, op, s, d, a[0])
    if kind == _MERGE:
        return _merge_cycles(m, op, first, count)
    if kind == _SCAN:
        return _widest(m, op, first, count, _log_lanes(m, dtype[s]))
    total = _widest(m, op, first, count, m.factor[code])
    if a[3]:
        total += _rows(extents[s], rank[s]) * _log_lanes(m, dtype[s])
    return total


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _places(op: Any, first: int, count: int) -> tuple[int, int, int, int]:
    """Operand rows of src, dst or acc, lhs and index; -1 without."""
    role = op[0]
    s, d, lhs, index = -1, -1, -1, -1
    for o in range(first, first + count):
        if role[o] == _SRC:
            s = o
        elif role[o] == _DST or role[o] == _ACC:
            d = o
        elif role[o] == _LHS:
            lhs = o
        elif role[o] == _INDEX:
            index = o
    return s, d, lhs, index


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _rate(m: Any, op: Any, engine: int, kind: int, s: int, d: int) -> float:
    """Bytes a cycle of the ports."""
    scope = op[1]
    rate = min(m.port[engine], m.private_rate[scope[d]])
    if s >= 0:
        rate = min(rate, m.private_rate[scope[s]])
    if kind == _TRANSPOSE and engine == _LOAD and m.numbers[5] > 0:
        rate = min(rate, m.numbers[5])
    return rate


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _memories(m: Any, op: Any, s: int, d: int, out: Any) -> None:
    """Which shared memories a transfer draws on, and its latency."""
    scope = op[1]
    out.latency = m.latency[scope[d]]
    out.ddr, out.llb = scope[d] == _DDR, scope[d] == _LLB
    if s >= 0:
        out.latency = max(out.latency, m.latency[scope[s]])
        out.ddr, out.llb = out.ddr or scope[s] == _DDR, out.llb or scope[s] == _LLB
    out.flow = out.ddr or out.llb


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _flags_cost(m: Any, kinds: np.ndarray, first: int, count: int) -> float:
    total = 0.0
    for f in range(first, first + count):
        total += m.flag_cost[kinds[f]]
    return total


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _l1_banks(m: Any, op: Any, first: int, count: int) -> np.uint64:
    """Banks of all operands in l1."""
    _, scope, dtype, rank, address, extents, strides = op
    mask = np.uint64(0)
    for o in range(first, first + count):
        if scope[o] == _L1:
            mask |= bank_mask(
                address[o], extents[o], strides[o], rank[o], m.bits[dtype[o]], np.int64(m.numbers[6]),
                np.int64(m.numbers[7]),
            )  # fmt: skip
    return mask


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _borrow_machine(m: Any) -> Any:
    return Machine(
        borrow(m.burst), borrow(m.alignment), borrow(m.latency), borrow(m.private_rate), borrow(m.startup),
        borrow(m.port), borrow(m.bits), borrow(m.unit), borrow(m.flag_cost), borrow(m.kind), borrow(m.factor),
        borrow(m.numbers),
    )  # fmt: skip


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _borrow_operands(op: Any) -> Any:
    role, scope, dtype, rank, address, extents, strides = op
    return (
        borrow(role), borrow(scope), borrow(dtype), borrow(rank), borrow(address), borrow(extents), borrow(strides),
    )  # fmt: skip


@njit(**_INNER)  # type: ignore[untyped-decorator]
def _borrow_entries(entries: Any) -> Any:
    opcode, engine, attr, operand, operands, wait, waits, set_, sets = entries
    return (
        borrow(opcode), borrow(engine), borrow(attr), borrow(operand), borrow(operands), borrow(wait), borrow(waits),
        borrow(set_), borrow(sets),
    )  # fmt: skip


@njit(cache=True, error_model="numpy", no_cfunc_wrapper=True)  # type: ignore[untyped-decorator]
def account(
    m: Any, entries: Any, op: Any, kinds: np.ndarray, attrs: np.ndarray, grids: np.ndarray, out: np.ndarray
) -> None:
    """Fill `out` (of dtype `COST`) for the entries given by columns; `grids` is room for two grids of `bursts`."""
    m, op = _borrow_machine(m), _borrow_operands(op)
    kinds, attrs, out, grids = borrow(kinds), borrow(attrs), borrow(out), borrow(grids)
    opcode, engine, attr, operand, operands, wait, waits, set_, sets = _borrow_entries(entries)
    for e in range(len(opcode)):
        kind, first, count, a = m.kind[opcode[e]], operand[e], operands[e], attrs[attr[e]]
        row = out[e]
        row.rate = 1.0
        row.startup = _flags_cost(m, kinds, wait[e], waits[e]) + _flags_cost(m, kinds, set_[e], sets[e])
        if kind == _CONTROL:
            if engine[e] == _SCALAR:
                row.startup += m.numbers[3]
            continue
        row.startup += m.startup[engine[e]]
        places = _places(op, first, count)
        s, d = places[0], places[1]
        row.banks = _l1_banks(m, op, first, count)
        if kind <= _IMG2COL:
            is_load = engine[e] == _LOAD
            row.work = _dma_bytes(m, op, grids, kind, s, d, places[3], is_load, a)
            row.rate = _rate(m, op, engine[e], kind, s, d)
            _memories(m, op, s, d, row)
        else:
            row.work = _cycles(m, op, kind, opcode[e], places, first, count, a)
