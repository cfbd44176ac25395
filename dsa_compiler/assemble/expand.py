"""Expand a kernel of instruction calls (level 4) into the instruction stream of every core.

Tile loops are evaluated here, all iterations of a loop at once: a statement is visited once, with arrays that
hold the loop variables of every iteration in which it runs. A buffer allocated inside a loop gets the next
slot of its ring each time its allocation is passed, which is what double-buffers tiles.

Loads of the same bytes by several cores at the same place of their streams become one multicast where the
part can do that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm.tirx import AllocBuffer, AttrStmt, Evaluate, For, IfThenElse, PrimFunc, SeqStmt

from dsa_compiler.assemble.evaluate import evaluate
from dsa_compiler.assemble.multicast import form_multicasts
from dsa_compiler.assemble.peephole import simplify_paddings
from dsa_compiler.assemble.trace import TRACE_ENTRY, TRACE_OPERAND, Trace, TraceBuffer
from dsa_compiler.emit.intrinsics import decode_call
from dsa_compiler.errors import InternalError
from dsa_compiler.isa.definition import ROLE_CODE
from dsa_compiler.isa.dtypes import DTYPE_CODE, item_bytes
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.target import Target

CORE_AXIS = "dsac.core"
RING = "dsac.ring"


@dataclass
class _Frame:
    """The iterations in which a statement runs: loop variables, ring slots, core, all of one length."""

    length: int
    variables: dict[Any, np.ndarray]
    slots: dict[int, np.ndarray]
    core: np.ndarray

    def take(self, rows: np.ndarray) -> _Frame:
        """The frame of those rows (indices or a mask), in their order."""
        return _Frame(
            int(rows.sum()) if rows.dtype == bool else len(rows),
            {v: a[rows] for v, a in self.variables.items()},
            {b: a[rows] for b, a in self.slots.items()},
            self.core[rows],
        )

    def value(self, expr: Any) -> np.ndarray:
        """`expr` for each row."""
        return np.broadcast_to(np.asarray(evaluate(expr, self.variables)), (self.length,))


@dataclass
class _Leaf:
    """An instruction call in all its iterations; `key` orders it within its core."""

    call: Any
    frame: _Frame
    key: np.ndarray


@dataclass
class _Expander:
    buffers: list[TraceBuffer] = field(default_factory=list)
    numbers: dict[Any, int] = field(default_factory=dict)

    def visit(self, stmt: Any, frame: _Frame) -> tuple[int, list[_Leaf]]:
        """Size of the key space of `stmt` and its leaves, whose keys count from 0 in each iteration."""
        if isinstance(stmt, For):
            return self._loop(stmt, frame)
        if isinstance(stmt, SeqStmt):
            return self._sequence(stmt, frame)
        if isinstance(stmt, IfThenElse):
            return self._condition(stmt, frame)
        if isinstance(stmt, AttrStmt):
            return self.visit(stmt.body, frame)
        if isinstance(stmt, Evaluate):
            if not hasattr(stmt.value, "op"):
                return 1, []
            return 1, [_Leaf(stmt.value, frame, np.zeros(frame.length, np.int64))]
        raise InternalError(f"{type(stmt).__name__} was not emitted: {str(stmt)[:200]}", where="assemble.expand")

    def _loop(self, loop: For, frame: _Frame) -> tuple[int, list[_Leaf]]:
        first = frame.value(loop.min)
        extent = np.maximum(frame.value(loop.extent), 0)
        rows = np.repeat(np.arange(frame.length), extent)
        starts = np.cumsum(extent) - extent
        index = np.arange(len(rows)) - starts[rows]
        inner = frame.take(rows)
        inner.variables[loop.loop_var] = first[rows] + index
        is_core = loop.annotations is not None and CORE_AXIS in loop.annotations
        if is_core:
            inner.core = inner.core + inner.variables[loop.loop_var] * int(loop.annotations[CORE_AXIS])
        if not len(rows):
            return 1, []
        size, leaves = self.visit(loop.body, inner)
        if is_core:
            return size, leaves
        for leaf in leaves:
            leaf.key += (leaf.frame.variables[loop.loop_var] - leaf.frame.value(loop.min)) * size
        return size * int(extent.max()), leaves

    def _sequence(self, seq: SeqStmt, frame: _Frame) -> tuple[int, list[_Leaf]]:
        position, leaves = 0, []
        for child in seq.seq:
            if isinstance(child, AllocBuffer):
                self._allocate(child, frame)
                continue
            size, inner = self.visit(child, frame)
            for leaf in inner:
                leaf.key += position
            position += size
            leaves.extend(inner)
        return max(position, 1), leaves

    def _condition(self, stmt: IfThenElse, frame: _Frame) -> tuple[int, list[_Leaf]]:
        mask = frame.value(stmt.condition).astype(bool)
        branches = [(mask, stmt.then_case), (~mask, stmt.else_case)]
        size, leaves = 1, []
        for rows, body in branches:
            if body is not None and rows.any():
                inner_size, inner = self.visit(body, frame.take(rows))
                size = max(size, inner_size)
                leaves.extend(inner)
        return size, leaves

    def _allocate(self, alloc: AllocBuffer, frame: _Frame) -> None:
        ring = int(alloc.annotations[RING]) if alloc.annotations and RING in alloc.annotations else 1
        number = self.numbers.get(alloc.buffer)
        if number is None:  # a pass may have copied the body, and with it the allocation
            number = self.add_buffer(alloc.buffer, ring)
        _, first = np.unique(frame.core, return_index=True)
        starts = np.zeros(frame.length, np.int64)
        starts[first] = np.diff(np.concatenate([[0], first]))
        instance = np.arange(frame.length) - np.cumsum(starts)
        frame.slots[number] = instance % ring

    def add_buffer(self, buffer: Any, ring: int = 1, parameter: int = -1) -> int:
        """Number of `buffer` in the trace, which it joins."""
        scope = scope_of(buffer)
        size = item_bytes(str(buffer.dtype))
        for extent in buffer.shape:
            size *= int(extent)
        self.buffers.append(TraceBuffer(str(buffer.name), scope, size, ring, parameter))
        self.numbers[buffer] = len(self.buffers) - 1
        return len(self.buffers) - 1


def scope_of(buffer: Any) -> str:
    """The scope of a TIR buffer: `global` is ddr, `global.X` is X."""
    scope = str(buffer.scope())
    return "ddr" if scope in ("", "global") else scope.removeprefix("global.")


def expand(func: PrimFunc, name: str, target: Target) -> Trace:
    """The instruction stream of `func`, a kernel in which every nest has been emitted.

    Raises `InternalError` for a statement that is neither control nor an instruction call.
    """
    expander = _Expander()
    for place, parameter in enumerate(func.params):
        expander.add_buffer(parameter, parameter=place)
    root = _Frame(1, {}, {}, np.zeros(1, np.int64))
    _, leaves = expander.visit(func.body, root)
    tables = _Tables(expander)
    for leaf in leaves:
        if leaf.frame.length:
            tables.add(leaf)
    trace = tables.finish(name)
    return form_multicasts(simplify_paddings(trace), target)


class _Tables:
    """Collects the columns of leaves and joins them into a `Trace`."""

    def __init__(self, expander: _Expander) -> None:
        self.expander = expander
        self.entries: list[np.ndarray] = []
        self.operands: list[np.ndarray] = []
        self.attrs: dict[str, int] = {"{}": 0}
        self.operand_count = 0

    def add(self, leaf: _Leaf) -> None:
        """Append the rows of one instruction call."""
        opcode, operands, template, exprs = decode_call(leaf.call)
        n = leaf.frame.length
        entry = np.zeros(n, TRACE_ENTRY)
        entry["opcode"] = OPCODES[opcode].code
        entry["core"], entry["key"], entry["group"] = leaf.frame.core, leaf.key, -1
        entry["attrs"] = self._attributes(template, [leaf.frame.value(e) for e in exprs], n)
        entry["operands"] = len(operands)
        entry["operand"] = self.operand_count + np.arange(n) * len(operands)
        rows = np.zeros((n, len(operands)), TRACE_OPERAND)
        for place, operand in enumerate(operands):
            self._operand(rows[:, place], operand, leaf.frame)
        self.entries.append(entry)
        self.operands.append(rows.reshape(-1))
        self.operand_count += n * len(operands)

    def _operand(self, rows: np.ndarray, operand: Any, frame: _Frame) -> None:
        buffer = operand.buffer
        dtype = str(buffer.dtype)
        size = item_bytes(dtype)
        rank = len(operand.extents)
        number = self.expander.numbers[buffer]
        rows["role"], rows["dtype"], rows["rank"] = ROLE_CODE[operand.role], DTYPE_CODE[dtype], rank
        rows["buffer"] = number
        rows["slot"] = frame.slots.get(number, 0)
        offset, stride = np.zeros(frame.length, np.int64), 1
        for index, extent in zip(reversed(list(operand.base)), reversed(list(buffer.shape)), strict=True):
            offset += frame.value(index) * stride
            stride *= int(extent)
        rows["offset"] = offset * size
        rows["extents"] = 1
        for d in range(rank):
            rows["extents"][:, d] = frame.value(operand.extents[d])
            rows["strides"][:, d] = frame.value(operand.strides[d]) * size

    def _attributes(self, template: Mapping[str, Any], values: list[np.ndarray], n: int) -> np.ndarray:
        if not values:
            return np.full(n, self._intern(dict(template)), np.int32)
        distinct, inverse = np.unique(np.stack(values, axis=1), axis=0, return_inverse=True)
        codes = [self._intern(_fill(template, [v.item() for v in row])) for row in distinct]
        return np.array(codes, np.int32)[inverse.reshape(-1)]

    def _intern(self, attrs: dict[str, Any]) -> int:
        return self.attrs.setdefault(json.dumps(attrs, sort_keys=True), len(self.attrs))

    def finish(self, name: str) -> Trace:
        """The trace, sorted by core and key; rows whose destination is empty are dropped."""
        entries = np.concatenate(self.entries) if self.entries else np.zeros(0, TRACE_ENTRY)
        operands = np.concatenate(self.operands) if self.operands else np.zeros(0, TRACE_OPERAND)
        if len(entries):
            written = operands[entries["operand"]]
            entries = entries[(written["extents"] > 0).all(axis=1)]
        order = np.lexsort((entries["key"], entries["core"]))
        attrs = tuple(json.loads(text) for text in self.attrs)
        return Trace(name, entries[order], operands, attrs, tuple(self.expander.buffers))


def _fill(template: Any, values: list[Any]) -> Any:
    """`template` with each "$i" replaced by the i-th value."""
    if isinstance(template, Mapping):
        return {k: _fill(v, values) for k, v in template.items()}
    if isinstance(template, list):
        return [_fill(v, values) for v in template]
    if isinstance(template, str) and template.startswith("$"):
        return values[int(template[1:])]
    return template
