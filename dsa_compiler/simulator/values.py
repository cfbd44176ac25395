"""The values of a program: each entry's semantics from the instruction table, on NumPy memories.

Entries are executed in the order of completion of a timing run. In race mode the timing is stretched, and half of
the entries, chosen at random, read their operands when they start instead of when they leave their engine; what
an entry computed is written when it completes. A program whose flags order what must be ordered gives the same
bits for every seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsa_compiler.errors import InternalError, UserError
from dsa_compiler.isa.convert import convert
from dsa_compiler.isa.definition import ROLES, WRITTEN_ROLES, Arrays, OpDef, Semantics
from dsa_compiler.isa.dtypes import DTYPES
from dsa_compiler.isa.ops_dma import checked_index
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.program.tables import Program
from dsa_compiler.simulator.bindings import feed_inputs, fetch_outputs
from dsa_compiler.simulator.host import run_host_step
from dsa_compiler.simulator.memories import Memories, Regions, memory_name, operand_owners, pack_int4, unpack_int4
from dsa_compiler.simulator.timing import Timing

_WRITE, _READ = range(2)
"""Phases of an entry; at one time, writes come first."""


@dataclass(frozen=True)
class Plan:
    """What entries of one opcode, attributes, roles and dtypes have in common.

    reads: (place among the operands, role), a gathered one last; written: place of dst or acc; gathered: the
    role of which the instruction reads only elements that another operand chooses, or "".
    """

    definition: OpDef
    semantics: Semantics
    attrs: Mapping[str, Any]
    reads: tuple[tuple[int, str], ...]
    written: int
    dtype: str
    saturate: bool
    scatter: bool
    shaped: bool
    gathered: str


@dataclass(frozen=True)
class _Value:
    """What an entry computed, and for a scatter the rows that it goes to."""

    array: np.ndarray
    rows: np.ndarray | None = None


def run_values(
    program: Program,
    timing: Timing,
    inputs: Mapping[str, np.ndarray],
    *,
    read_early: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Execute `program` on `inputs` in the order of `timing`; the outputs by name.

    read_early: by entry, whether operands are read at the start (race mode), else at the end of occupation.
    Raises `UserError` for inputs that do not fit and for reads of bytes that nothing wrote.
    """
    machine = Machine(program)
    feed_inputs(program, machine.memories, inputs)
    order = _event_order(timing, read_early)
    segment_of = program.entries["segment"][order >> 1]
    with np.errstate(all="ignore"):
        for segment in timing.queues.segments:
            for step in program.host_steps:
                if step.segment == segment:
                    run_host_step(step, machine.memories)
            machine.run(order[segment_of == segment], split=read_early is not None)
    return fetch_outputs(program, machine.memories)


def _event_order(timing: Timing, read_early: np.ndarray | None) -> np.ndarray:
    """Events 2 * entry + phase in the order of execution; one event an entry where none reads early."""
    entries = np.arange(len(timing.start))
    if read_early is None:
        return np.asarray(2 * np.lexsort((timing.order, timing.complete)) + _WRITE)
    read_at = np.where(read_early, timing.start, timing.end)
    time = np.concatenate([read_at, timing.complete])
    phase = np.repeat([_READ, _WRITE], len(entries))
    order = np.lexsort((np.tile(timing.order, 2), phase, time))
    return np.asarray((2 * np.tile(entries, 2) + phase)[order])


class Machine:
    """Memories and plans while the entries of a program are executed."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.regions = Regions(program)
        self.memories = Memories(program, self.regions)
        counts = program.entries["operands"].astype(np.int64)
        self._first = (np.cumsum(counts) - counts).tolist()
        self._number = self.regions.number.tolist()
        self._plans, self._plan_of = make_plans(program)
        self._held: dict[int, _Value] = {}
        self._computed = bytearray(len(program))

    def run(self, events: np.ndarray, *, split: bool) -> None:
        """Execute events in order; without `split` each entry reads and writes at once."""
        for event in events.tolist():
            entry = event >> 1
            plan = self._plans[self._plan_of[entry]]
            if plan is None:
                continue
            if not split:
                self._write(entry, plan, self._compute(entry, plan))
            elif event & 1 == _READ:
                self._read_ahead(entry, plan)
            else:
                self._read_ahead(entry, plan)
                self._write(entry, plan, self._held.pop(entry))

    def _read_ahead(self, entry: int, plan: Plan) -> None:
        """Compute and hold the entry's value, once; an entry of no duration meets its write first."""
        if not self._computed[entry]:
            self._computed[entry] = 1
            value = self._compute(entry, plan)
            self._held[entry] = _Value(np.array(value.array), None if value.rows is None else np.array(value.rows))

    def _compute(self, entry: int, plan: Plan) -> _Value:
        """The value that the entry writes, in the type that it was computed in."""
        first, number, known = self._first[entry], self._number, self.memories.known
        arrays: Arrays = {}
        for place, role in plan.reads:
            region = number[first + place]
            if not known[region]:
                self._check_written(entry, plan, role, region, arrays)
            arrays[role] = self._array(region)
        if plan.shaped:
            arrays["dst"] = self._array(number[first + plan.written])
        try:
            value = plan.semantics(arrays, plan.attrs)
            rows = self._scattered_rows(arrays["index"], number[first + plan.written]) if plan.scatter else None
        except UserError as error:
            name = plan.definition.name
            raise UserError(
                f"entry {entry} ({name}): {error.problem}", where="simulator", action=error.action
            ) from error
        if value is None:
            raise InternalError(f"{plan.definition.name} gives no value", where="simulator")
        return _Value(value, rows)

    def _array(self, region: int) -> np.ndarray:
        view = self.memories.view(region)
        if not self.regions.packed[region]:
            return view
        return unpack_int4(view, self.regions.extents[region][-1])

    def _check_written(self, entry: int, plan: Plan, role: str, region: int, arrays: Arrays) -> None:
        """Trap a read of bytes that nothing wrote; of a gathered operand only the elements chosen are read."""
        written = self.memories.written(region)
        if written.all():
            self.memories.known[region] = 1
            return
        if role == plan.gathered:
            itemsize = self.memories.view(region).dtype.itemsize
            elements = np.asarray(written.reshape(*written.shape[:-1], -1, itemsize).all(-1))
            chosen = plan.semantics({**arrays, role: elements}, plan.attrs)
            if chosen is not None and bool(chosen.all()):
                return
        memory = memory_name(self.program.target, self.regions.place[region])
        raise UserError(
            f"unwritten read: entry {entry} ({plan.definition.name}) reads {role} in {memory} "
            f"from byte {self.regions.address[region]}, of which byte {self.memories.first_unwritten(region)} "
            "was never written",
            where="simulator",
            action="write it first, or wait for the entry that does",
        )

    def _write(self, entry: int, plan: Plan, value: _Value) -> None:
        """Round the value to the destination's dtype and put it there."""
        memories = self.memories
        region = self._number[self._first[entry] + plan.written]
        array = convert(value.array, plan.dtype, plan.saturate)
        if plan.dtype == "int4":
            array = pack_int4(array)
        view = memories.view(region)
        if value.rows is not None:
            place = np.unravel_index(value.rows, view.shape[: max(1, view.ndim - 1)])
            view[place] = array
            memories.written(region)[place if view.ndim > 1 else _item_bytes(value.rows, view.itemsize)] = True
            return
        view[...] = array if array.shape == view.shape else array.reshape(view.shape)
        if not memories.known[region]:
            memories.written(region)[...] = True
            memories.known[region] = 1

    def _scattered_rows(self, index: np.ndarray, region: int) -> np.ndarray:
        shape = self.memories.view(region).shape
        return checked_index(index, int(np.prod(shape[: max(1, len(shape) - 1)])))


def _item_bytes(elements: np.ndarray, itemsize: int) -> np.ndarray:
    """Places of the bytes of some elements of a dense row."""
    return (elements.astype(np.int64)[:, None] * itemsize + np.arange(itemsize)).ravel()


def make_plans(program: Program) -> tuple[list[Plan | None], list[int]]:
    """The distinct plans (None for control) and each entry's among them."""
    owner, rows = operand_owners(program)
    operands, entries = program.operands[rows], program.entries
    counts = entries["operands"].astype(np.int64)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    code = operands["role"].astype(np.int64) * len(DTYPES) + operands["dtype"] + 1
    signature = np.zeros((len(entries), 2 + int(counts.max(initial=0))), np.int64)
    signature[:, 0], signature[:, 1] = entries["opcode"], entries["attrs"]
    signature[owner, 2 + place] = code
    _, first, plan_of = np.unique(signature, axis=0, return_index=True, return_inverse=True)
    return [_plan(program, int(e)) for e in first], plan_of.reshape(-1).tolist()


def _plan(program: Program, entry: int) -> Plan | None:
    row = program.entries[entry]
    definition = BY_CODE[int(row["opcode"])]
    if definition.semantics is None:
        return None
    operands = program.operands[int(row["operand"]) : int(row["operand"]) + int(row["operands"])]
    roles = [ROLES[o["role"]] for o in operands]
    written = next(place for place, role in enumerate(roles) if role in WRITTEN_ROLES)
    scatter = "scatter" in definition.tags
    chooses = "index" in roles and not scatter and "matrix" not in definition.tags
    gathered = "table" if "table" in roles else "src" if chooses else ""
    reads = [(place, role) for place, role in enumerate(roles) if role != "dst"]
    return Plan(
        definition=definition,
        semantics=definition.semantics,
        attrs=program.attrs[int(row["attrs"])],
        reads=tuple(sorted(reads, key=lambda read: read[1] == gathered)),
        written=written,
        dtype=DTYPES[operands[written]["dtype"]],
        saturate="saturate" in definition.tags,
        scatter=scatter,
        shaped="shaped" in definition.tags,
        gathered=gathered,
    )
