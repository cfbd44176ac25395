"""The emission pipeline, as data, and its driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvm.tirx import PrimFunc

from dsa_compiler.emit.emission import Emission
from dsa_compiler.emit.if_promotion import IfPromotion
from dsa_compiler.emit.kernel_pass import KernelPass
from dsa_compiler.emit.loop_collapse import LoopCollapse
from dsa_compiler.emit.loop_fission import LoopFission
from dsa_compiler.emit.loop_partition import LoopPartition
from dsa_compiler.emit.loop_shift import LoopShift
from dsa_compiler.emit.measure import Work, emitted_work, left_work
from dsa_compiler.emit.outline import Leftover
from dsa_compiler.emit.pre_process import PreProcess
from dsa_compiler.target import Target


@dataclass(frozen=True)
class EmitOptions:
    """`disabled` names passes to leave out; `dump` is a folder for the function after each pass.

    `round_each`: intermediate results of 16-bit expressions are rounded as a model computed in 16 bits rounds them.
    """

    disabled: frozenset[str] = frozenset()
    dump: Path | None = None
    round_each: bool = True

    @property
    def collapse(self) -> bool:
        """Whether axes may be merged."""
        return LoopCollapse.name not in self.disabled


Step = Callable[[Target, EmitOptions], KernelPass]

PIPELINE: tuple[Step, ...] = (
    lambda target, options: LoopShift(),
    lambda target, options: LoopFission(),
    lambda target, options: LoopCollapse(),
    lambda target, options: IfPromotion(),
    lambda target, options: LoopPartition(),
    lambda target, options: IfPromotion(),  # again: the pieces of a partition have guards on one axis
    lambda target, options: LoopShift(),  # again: the two before give loops lower bounds
    lambda target, options: PreProcess(target, options.round_each, options.collapse),
)


@dataclass(frozen=True)
class EmitResult:
    """The kernel with instructions, what was left and why, and how much work is in the two."""

    func: PrimFunc
    leftovers: tuple[Leftover, ...]
    emitted: Work
    left: Work


def emit_kernel(func: PrimFunc, target: Target, options: EmitOptions | None = None) -> EmitResult:
    """Turn the nests of a kernel into instructions."""
    options = options or EmitOptions()
    _dump(func, options, 0, "level3")
    for number, make in enumerate(PIPELINE, 1):
        step = make(target, options)
        if step.name not in options.disabled:
            func = step(func)
            _dump(func, options, number, step.name)
    emission = Emission(target, options.collapse)
    func = emission(func)
    _dump(func, options, len(PIPELINE) + 1, emission.name)
    return EmitResult(func, tuple(emission.leftovers), emitted_work(emission), left_work(emission))


def _dump(func: PrimFunc, options: EmitOptions, number: int, name: str) -> None:
    if options.dump is None:
        return
    options.dump.mkdir(parents=True, exist_ok=True)
    (options.dump / f"{number:02d}_{name}.py").write_text(func.script())
