"""The emission pipeline, as data, and its driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvm.tirx import PrimFunc

from dsa_compiler.emit.emission import Emission, Leftover
from dsa_compiler.emit.if_promotion import IfPromotion
from dsa_compiler.emit.kernel_pass import KernelPass
from dsa_compiler.emit.loop_collapse import LoopCollapse
from dsa_compiler.emit.loop_fission import LoopFission
from dsa_compiler.emit.loop_partition import LoopPartition
from dsa_compiler.emit.loop_shift import LoopShift
from dsa_compiler.emit.pre_process import PreProcess
from dsa_compiler.target import Target

PIPELINE: tuple[Callable[[Target], KernelPass], ...] = (
    lambda target: LoopShift(),
    lambda target: LoopFission(),
    lambda target: LoopCollapse(),
    lambda target: IfPromotion(),
    lambda target: LoopPartition(),
    lambda target: LoopShift(),            # again: the two before give loops lower bounds
    lambda target: PreProcess(target),
)


@dataclass(frozen=True)
class EmitOptions:
    """`disabled` names passes to leave out; `dump` is a folder for the function after each pass."""

    disabled: frozenset[str] = frozenset()
    dump: Path | None = None


@dataclass(frozen=True)
class EmitResult:
    """The kernel with instructions, and what was left."""

    func: PrimFunc
    leftovers: tuple[Leftover, ...]


def emit_kernel(func: PrimFunc, target: Target, options: EmitOptions | None = None) -> EmitResult:
    """Turn the nests of a kernel into instructions."""
    options = options or EmitOptions()
    for make in PIPELINE:
        step = make(target)
        if step.name not in options.disabled:
            func = step(func)
    emission = Emission(target)
    return EmitResult(emission(func), tuple(emission.leftovers))
