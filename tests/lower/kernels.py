"""Runs level-3 kernels in three ways and compares them: TVM's LLVM, the simulator, the simulator in race mode.

Arrays lie in ddr with a padded pitch. Padding and results start as NaN (integers: 77) where a run can see them, and
unwritten in the simulator where it can tell, so that a kernel that reads what it must not is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm.tirx import PrimFunc

from dsa_compiler.assemble.expand import expand
from dsa_compiler.assemble.link import KernelCall, link
from dsa_compiler.assemble.trace import Trace
from dsa_compiler.emit.pipeline import EmitResult, emit_kernel
from dsa_compiler.isa.dtypes import numpy_dtype
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.program.tables import Binding, Constant, Program
from dsa_compiler.simulator.machine import simulate
from dsa_compiler.target import Target

SEEDS = (1, 2)
LLVM = {"kind": "llvm", "opt-level": 0}


def blank(shape: Sequence[int], dtype: str) -> np.ndarray:
    """Contents that no result has by chance."""
    kind = numpy_dtype(dtype)
    if kind == np.bool_:
        return np.ones(shape, kind)
    return np.full(shape, np.nan if kind.kind not in "iu" else 77, kind)


@dataclass
class Stored:
    """A parameter of a kernel: `values` in rows of `columns` elements with the pitch of the last dimension of `shape`.

    `values` None is a result. `memory` is what lies in ddr.
    """

    shape: tuple[int, ...]
    dtype: str
    values: np.ndarray | None = None
    pitch: int = 0
    memory: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        pitch = self.pitch or self.shape[-1]
        self.memory = blank((int(np.prod(self.shape)),), self.dtype)
        if self.values is not None:
            columns = self.values.shape[-1] if self.values.ndim else 1
            rows = self.values.reshape(-1, columns)
            self.memory.reshape(-1, pitch)[: len(rows), :columns] = rows

    def constants(self, address: int) -> list[Constant]:
        """The bytes that are written before the kernel starts: all of a result (blank), of others the values alone."""
        data = self.memory.view(np.uint8)
        columns = self.values.shape[-1] if self.values is not None and self.values.ndim else 1
        pitch = self.pitch or self.shape[-1]
        if self.values is None or columns == pitch:
            return [Constant(address, data)]
        size = self.memory.itemsize
        rows = data.reshape(-1, pitch * size)
        count = self.values.size // max(columns, 1)
        return [Constant(address + r * pitch * size, rows[r, : columns * size].copy()) for r in range(count)]


@dataclass
class Run:
    """A kernel after emission and assembly."""

    program: Program
    emitted: EmitResult
    trace: Trace

    def opcodes(self) -> dict[str, int]:
        """Entries by opcode."""
        codes, counts = np.unique(self.program.entries["opcode"], return_counts=True)
        return {BY_CODE[int(c)].name: int(n) for c, n in zip(codes, counts, strict=True)}


def run_llvm(func: PrimFunc, parameters: Sequence[Stored]) -> list[np.ndarray]:
    """Memory of every parameter after a run on the CPU."""
    named = func.with_attr("global_symbol", "main")
    library = tvm.compile(tvm.IRModule({"main": named}), target=LLVM)
    tensors = [tvm.runtime.tensor(p.memory.reshape(p.shape)) for p in parameters]
    library["main"](*tensors)
    return [t.numpy().reshape(-1) for t in tensors]


def build(func: PrimFunc, target: Target, parameters: Sequence[Stored], name: str = "kernel") -> Run:
    """Emit, expand and link one kernel; a result is an output of the program, the rest constants."""
    emitted = emit_kernel(func, target)
    assert not emitted.leftovers, [(left.reason, str(left.stmt)[:500]) for left in emitted.leftovers]
    trace = expand(emitted.func, name, target)
    addresses, constants, outputs, top = [], [], [], 0
    for number, p in enumerate(parameters):
        addresses.append(top)
        constants += p.constants(top)
        if p.values is None:
            outputs.append(Binding(f"y{number}", top, (p.memory.size,), p.dtype))
        top += -(-p.memory.nbytes // 64) * 64
    call = KernelCall(trace, tuple(addresses), tuple(p.values is not None for p in parameters))
    stream = link([call], target)
    program = Program(
        target,
        stream.entries,
        stream.operands,
        stream.flags,
        stream.attrs,
        nodes=("node",),
        kernels=(name,),
        outputs=tuple(outputs),
        constants=tuple(constants),
        ddr_bytes=top,
    )
    return Run(program, emitted, trace)


def run_simulator(run: Run, seeds: Sequence[int] = SEEDS) -> np.ndarray:
    """Memory of the one result; every race seed has to give the same bits."""
    (first,) = simulate(run.program, {}).outputs.values()
    for seed in seeds:
        (again,) = simulate(run.program, {}, race_seed=seed, check=False).outputs.values()
        assert np.array_equal(first.view(np.uint8), again.view(np.uint8)), f"race seed {seed} changes the result"
    return first


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str = "") -> None:
    """Blank elements agree exactly, others within `tolerance` of the largest one."""
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    assert np.array_equal(np.isnan(a), np.isnan(e)), f"{what}: other elements are written than should be"
    finite = np.isfinite(e)
    assert np.array_equal(np.where(finite, 0, a), np.where(finite, 0, e), equal_nan=True), f"{what}: infinities differ"
    scale = max(np.abs(e[finite]).max(initial=0.0), 1e-30)
    error = np.abs(a - e)[finite].max(initial=0.0) / scale
    assert error <= tolerance, f"{what}: error {error:.2e} exceeds {tolerance:.0e}"


TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}


def check(
    func: PrimFunc,
    target: Target,
    parameters: Sequence[Stored],
    expected: np.ndarray,
    *,
    llvm: bool = False,
    seeds: Sequence[int] = SEEDS,
    tolerance: float | None = None,
) -> Run:
    """Compare the last parameter after each kind of run with `expected`, all of its memory, blanks included."""
    result = parameters[-1]
    limit = TOLERANCE.get(result.dtype, 0.0) if tolerance is None else tolerance
    wanted = Stored(result.shape, result.dtype, expected, result.pitch).memory if expected.ndim != 1 else expected
    if llvm:
        assert_close(run_llvm(func, parameters)[-1], wanted, limit, "llvm")
    run = build(func, target, parameters)
    assert_close(run_simulator(run, seeds), wanted, limit, "simulator")
    return run
