"""Make a program fit the part's program memory by choosing other tiles for the layers with the most entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dsa_compiler.compilation import MOST_RETRIES, Compilation, CompiledLayer, Work
from dsa_compiler.errors import Infeasible
from dsa_compiler.lower.lower import lower_layer
from dsa_compiler.program.encoding import check_program_size, program_bytes
from dsa_compiler.program.tables import Program

_ROOM = 0.95
"""Share of the program memory to aim at: flags make entries a little longer or shorter in another program."""

Assembler = Callable[[list[Work]], Program]


def fit_program(work: Compilation, works: list[Work], assemble: Assembler) -> Program:
    """The program of `works`, whose kernels are replaced by ones with fewer entries if it is larger than the program
    memory.

    Raises `UserError` if the choices with the fewest entries are still too large.
    """
    program = assemble(works)
    limit = program.target.program_size
    size = max(program_bytes(program).values(), default=0)
    if size > limit:
        work.feedback["program"] += 1
        _shorten(work, works, 1.0 - _ROOM * limit / size)
        program = assemble(works)
        check_program_size(program)
    return program


def _shorten(work: Compilation, works: list[Work], share: float) -> None:
    """Replace kernels, those with most entries first, until that share of all entries of a busiest core is saved."""
    places: dict[int, list[int]] = {}
    for place, each in enumerate(works):
        places.setdefault(id(each.compiled), []).append(place)
    counts = {kernel: _entries(works[mine[0]].compiled) * len(mine) for kernel, mine in places.items()}
    wanted = share * sum(counts.values())
    for kernel in sorted(counts, key=lambda k: -counts[k]):
        if wanted <= 0:
            return
        mine = places[kernel]
        current = works[mine[0]].compiled
        shortest = min((current, *_others(work, current, works[mine[0]].row)), key=_entries)
        wanted -= (_entries(current) - _entries(shortest)) * len(mine)
        for place in mine:
            works[place] = replace(works[place], compiled=shortest)


def _entries(layer: CompiledLayer) -> int:
    """Entries of the busiest core."""
    return int(np.bincount(layer.trace.entries["core"]).max(initial=0)) if layer.trace is not None else 0


def _others(work: Compilation, compiled: CompiledLayer, number: int) -> list[CompiledLayer]:
    """The layer by its other choices that fit."""
    found: list[CompiledLayer] = []
    where = compiled.where
    if where is None:
        return found
    for rank in range(MOST_RETRIES):
        try:
            kernel = lower_layer(compiled.layer, where.graph, where.target, rank=rank)
            emitted, trace = work.emit(kernel, number)
        except Infeasible:
            continue
        if trace is not None:
            found.append(CompiledLayer(compiled.layer, kernel, emitted, trace, where=where))
    return found
