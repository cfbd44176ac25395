"""Make a program fit the part's program memory by choosing other tiles for the layers with the most entries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dsa_compiler.compilation import MOST_RETRIES, Compilation, CompiledLayer
from dsa_compiler.errors import Infeasible
from dsa_compiler.lower.lower import lower_layer
from dsa_compiler.program.encoding import check_program_size, program_bytes
from dsa_compiler.program.tables import Program

_ROOM = 0.95
"""Share of the program memory to aim at: flags make entries a little longer or shorter in another program."""

Assembler = Callable[[list[CompiledLayer]], Program]


def fit_program(work: Compilation, layers: list[CompiledLayer], assemble: Assembler) -> Program:
    """The program of `layers`, which are replaced by ones with fewer entries if it is larger than the program memory.

    Raises `UserError` if the choices with the fewest entries are still too large.
    """
    program = assemble(layers)
    limit = program.target.program_size
    size = max(program_bytes(program).values(), default=0)
    if size > limit:
        work.feedback["program"] += 1
        _shorten(work, layers, 1.0 - _ROOM * limit / size)
        program = assemble(layers)
        check_program_size(program)
    return program


def _shorten(work: Compilation, layers: list[CompiledLayer], share: float) -> None:
    """Replace layers, the longest first, until that share of all entries (of the busiest core of each) is saved."""
    counts = [_entries(layer) for layer in layers]
    wanted = share * sum(counts)
    for number in np.argsort(counts)[::-1].tolist():
        if wanted <= 0:
            return
        shortest = min((layers[number], *_others(work, layers[number], number)), key=_entries)
        wanted -= counts[number] - _entries(shortest)
        layers[number] = shortest


def _entries(layer: CompiledLayer) -> int:
    """Entries of the busiest core."""
    return int(np.bincount(layer.trace.entries["core"]).max(initial=0)) if layer.trace is not None else 0


def _others(work: Compilation, compiled: CompiledLayer, number: int) -> list[CompiledLayer]:
    """The layer by its other choices that fit."""
    found = []
    for rank in range(MOST_RETRIES) if compiled.trace is not None else ():
        try:
            kernel = lower_layer(compiled.layer, work.graph, work.target, rank=rank)
            emitted, trace = work.emit(kernel, number)
        except Infeasible:
            continue
        if trace is not None:
            found.append(CompiledLayer(compiled.layer, kernel, emitted, trace))
    return found
