"""Programs with one flag less: a set and the wait that takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dsa_compiler.errors import UserError
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.program.tables import FLAG_KINDS, Program
from dsa_compiler.simulator.machine import simulate
from dsa_compiler.simulator.race import analyse_order
from dsa_compiler.target import ENGINES

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Edge:
    """A set and the wait that takes it: entries, and rows of the flag table."""

    producer: int
    set_row: int
    consumer: int
    wait_row: int


def edges(program: Program) -> list[Edge]:
    """Every set of a core's flags with its wait: a flag counts, so the n-th set meets the n-th wait."""
    sets, waits = _uses(program, "set"), _uses(program, "wait")
    return [
        Edge(producer, set_row, consumer, wait_row)
        for key, rows in sets.items()
        for (producer, set_row), (consumer, wait_row) in zip(rows, waits.get(key, []), strict=False)
    ]


def _uses(program: Program, what: str) -> dict[tuple[int, ...], list[tuple[int, int]]]:
    """Entries and rows that set (or wait for) each core flag, in queue order."""
    found: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    entries = program.entries
    for entry in np.flatnonzero(entries[f"{what}s"]).tolist():
        row = entries[entry]
        for number in range(int(row[what]), int(row[what]) + int(row[f"{what}s"])):
            flag = program.flags[number]
            if FLAG_KINDS[flag["kind"]] == "core":
                key = (
                    int(row["cluster"]),
                    int(row["core"]),
                    int(flag["source"]),
                    int(flag["target"]),
                    int(flag["number"]),
                )
                found.setdefault(key, []).append((entry, number))
    return found


def without(program: Program, edge: Edge) -> Program:
    """The program without one set and its wait; what is left of their entries' flags is written anew."""
    entries, flags = program.entries.copy(), program.flags
    for entry, row, what in ((edge.producer, edge.set_row, "set"), (edge.consumer, edge.wait_row, "wait")):
        first, count = int(entries[entry][what]), int(entries[entry][f"{what}s"])
        kept = [number for number in range(first, first + count) if number != row]
        entries[what][entry] = len(flags)
        entries[f"{what}s"][entry] = count - 1
        flags = np.concatenate([flags, program.flags[kept]])
    return replace(program, entries=entries, flags=flags)


def caught_by(program: Program, inputs: Arrays, expected: Arrays, seeds: int) -> str:
    """How the program is found wrong: "race" (or another finding), "deadlock", "trap" or "bits"; "" if it is not."""
    report = analyse_order(program)
    if report.deadlock:
        return "deadlock"
    if report.findings:
        return report.findings[0].kind
    return _caught_in_values(program, inputs, expected, seeds)


def _caught_in_values(program: Program, inputs: Arrays, expected: Arrays, seeds: int) -> str:
    try:
        for seed in range(seeds):
            outputs = simulate(program, inputs, check=False, race_seed=seed).outputs or {}
            if not same_bits(outputs, expected):
                return "bits"
    except UserError:
        return "trap"
    return ""


def same_bits(first: Arrays, second: Arrays) -> bool:
    """Whether two sets of outputs are the same, bit by bit."""
    return all(np.array_equal(_bytes(first[name]), _bytes(value)) for name, value in second.items())


def _bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def described(program: Program, edge: Edge) -> str:
    """An edge in words."""
    return f"{_entry(program, edge.producer)} sets what {_entry(program, edge.consumer)} waits for"


def _entry(program: Program, number: int) -> str:
    row = program.entries[number]
    kernel = program.kernels[int(row["kernel"])] if row["kernel"] >= 0 else ""
    name = BY_CODE[int(row["opcode"])].name
    return f"entry {number} ({name}, c{row['cluster']}.{row['core']} {ENGINES[row['engine']]}, {kernel})"
