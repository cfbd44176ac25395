"""Kernels of the matrix template by themselves: random problems, and what is predicted and simulated of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx

from dsa_compiler.assemble.expand import expand
from dsa_compiler.assemble.link import KernelCall, link
from dsa_compiler.emit.pipeline import emit_kernel
from dsa_compiler.errors import Infeasible
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.matrix_kernel import MatrixKernel
from dsa_compiler.lower.matrix_problem import Extra, MatrixOperands, MatrixProblem, MatrixTiling, Point
from dsa_compiler.lower.matrix_tiling import MatrixTraffic, rank_matrix_tilings
from dsa_compiler.lower.tir import Buffer, buffer
from dsa_compiler.program.tables import Program
from dsa_compiler.simulator.timing import time_program
from dsa_compiler.target import Target, load_target

KINDS = ("1x1", "3x3", "3x3 stride 2", "5x5", "product", "dense", "attention")
PARTS = ("npu-v1", "npu-v2", "npu-edge", "npu-bench")


@dataclass(frozen=True)
class Kernel:
    """A problem on a part, with what its epilogue asks for."""

    kind: str
    part: str
    problem: MatrixProblem
    traffic: MatrixTraffic


@dataclass(frozen=True)
class Estimate:
    """Predicted and simulated cycles of a kernel with the tiling that was chosen."""

    kernel: Kernel
    tiling: MatrixTiling
    predicted: float
    simulated: float

    @property
    def error(self) -> float:
        """The predicted cycles' difference from the simulated, relative to those."""
        return abs(self.predicted - self.simulated) / self.simulated


def draw(random: np.random.Generator, most_macs: int = 1 << 31) -> Kernel:
    """A kernel of a random kind, shape, precision and part, of at most `most_macs` multiply-accumulates."""
    while True:
        kernel = _drawn(random)
        if kernel.problem.macs <= most_macs:
            return kernel


def _drawn(random: np.random.Generator) -> Kernel:
    kind, part = str(random.choice(KINDS)), str(random.choice(PARTS))
    dtype = str(random.choice(("float16", "float16", "float32")))
    traffic = MatrixTraffic(
        dtype, int(random.random() < 0.25), int(random.integers(1, 3)), bias=bool(random.random() < 0.7)
    )
    problem = _product(random, kind) if kind in ("product", "dense", "attention") else _convolution(random, kind)
    if kind == "attention":
        traffic = replace(traffic, extras=0, bias=False, constant_b=False, b_transposed=bool(random.random() < 0.5))
    return Kernel(kind, part, replace(problem, dtype=dtype), traffic)


def _product(random: np.random.Generator, kind: str) -> MatrixProblem:
    k, n = (int(random.choice((64, 96, 192, 256, 384, 512, 768, 1024))) for _ in range(2))
    if kind == "attention":
        rows, batches = int(random.choice((64, 128, 197, 256, 384))), int(random.choice((2, 4, 8, 12)))
        k, n = (64, rows) if random.random() < 0.5 else (rows, 64)
        return MatrixProblem(batches, 1, rows, 1, k, rows, 1, n)
    rows = (
        int(random.choice((1, 2, 4))) if kind == "dense" else int(random.choice((49, 128, 197, 384, 512, 1024, 2048)))
    )
    return MatrixProblem(1, 1, rows, 1, k, rows, 1, n)


def _convolution(random: np.random.Generator, kind: str) -> MatrixProblem:
    taps, stride = int(kind[0]), 2 if "stride" in kind else 1
    size = int(random.choice((7, 13, 14, 20, 28, 40, 52, 56, 80)))
    channels, outputs = (int(random.choice((16, 24, 32, 64, 96, 128, 256, 512))) for _ in range(2))
    images = int(random.choice((1, 1, 2, 4)))
    if kind == "1x1":
        rows = images * size * size
        return MatrixProblem(1, 1, rows, 1, channels, rows, 1, outputs)
    out = -(-size // stride)
    pad = taps // 2
    return MatrixProblem(
        1, images, size, size, channels, out, out, outputs, (taps, taps), (stride, stride), (1, 1), (pad, pad)
    )


def estimate(kernel: Kernel) -> Estimate | None:
    """The kernel with its best tiling that can be built, timed; None if there is none among the first eight."""
    target = load_target(kernel.part)
    for cycles, tiling in rank_matrix_tilings(kernel.problem, kernel.traffic, target)[:8]:
        try:
            program = kernel_program(kernel, tiling, target)
        except Infeasible:
            continue
        return Estimate(kernel, tiling, cycles, time_program(program).cycles)
    return None


def kernel_program(kernel: Kernel, tiling: MatrixTiling, target: Target) -> Program:
    """The program of one kernel, operands and result in ddr, channel-last.

    Raises `Infeasible` if it cannot be emitted or does not fit.
    """
    func, buffers = _function(kernel, tiling, target)
    emitted = emit_kernel(func, target)
    if emitted.leftovers:
        raise Infeasible("instructions", len(emitted.leftovers), 0, where=kernel.kind)
    addresses, end = [], 0
    for each in buffers:
        addresses.append(end)
        size = int(np.prod([int(extent) for extent in each.shape])) * item_bytes(str(each.dtype))
        end += -(-size // 4096) * 4096
    constant = tuple(number < len(buffers) - 1 for number in range(len(buffers)))
    stream = link([KernelCall(expand(emitted.func, kernel.kind, target), tuple(addresses), constant)], target)
    return Program(
        target, stream.entries, stream.operands, stream.flags, stream.attrs, kernels=(kernel.kind,), ddr_bytes=end,
        macs=kernel.problem.macs,
    )  # fmt: skip


def _function(kernel: Kernel, tiling: MatrixTiling, target: Target) -> tuple[Any, list[Buffer]]:
    p, traffic = kernel.problem, kernel.traffic

    def rows(name: str, *shape: int) -> Buffer:
        return buffer(name, (*shape[:-1], target.pitch(shape[-1], item_bytes(p.dtype))), p.dtype)

    a = rows("a", p.images, p.height, p.width, p.batches * p.channels)
    out = rows("out", p.images, p.out_height, p.out_width, p.batches * p.out_channels)
    operands = MatrixOperands(
        a, lambda b, i, y, x, c: [i, y, x, b * p.channels + c], out, None, out, lambda q: _place(q, p),
        b_transposed=traffic.b_transposed, epilogue=_epilogue(traffic),
    )  # fmt: skip
    plan = MatrixKernel(p, tiling, operands, target)
    if traffic.constant_b:
        chunks = plan.k_blocks[0] * plan.k_blocks[1] * plan.k_blocks[2]
        operands = replace(
            operands, b=buffer("b", (p.batches, plan.chunks, chunks, plan.k_chunk, plan.n_pitch), p.dtype)
        )
    elif traffic.b_transposed:
        operands = replace(
            operands, b=rows("b", p.batches, p.out_channels, p.channels), b_index=lambda b, k, n: [b, n, k]
        )
    else:
        operands = replace(
            operands, b=rows("b", p.batches, p.channels, p.out_channels), b_index=lambda b, k, n: [b, k, n]
        )
    if traffic.bias:
        operands = replace(operands, bias=buffer("bias", (p.batches, plan.chunks, tiling.n), "float32"))
    if traffic.extras:
        extra = rows("extra", p.images, p.out_height, p.out_width, p.batches * p.out_channels)
        operands = replace(
            operands, extras=(Extra(extra, lambda q: _place(q, p), frozenset(("image", "y", "x", "b", "n"))),)
        )
    given = [operands.a, operands.b, operands.bias, *(e.source for e in operands.extras), operands.out]
    buffers = [b for b in given if b is not None]
    return MatrixKernel(p, tiling, operands, target).build("kernel", buffers), buffers


def _place(q: Point, p: MatrixProblem) -> Sequence[Any]:
    return [q.image, q.y, q.x, q.b * p.out_channels + q.n]


def _epilogue(traffic: MatrixTraffic) -> Callable[[Any, Sequence[Any]], Any] | None:
    """Adds the operand that is as large as the result, and as many comparisons as it takes to reach the vector ops."""
    if traffic.extras == 0 and traffic.vector_ops == 1:
        return None

    def value(acc: Any, extras: Sequence[Any]) -> Any:
        for extra in extras:
            acc = acc + tirx.Cast("float32", extra)
        return tirx.max(acc, tirx.const(0.0, "float32")) if traffic.vector_ops > 1 else acc

    return value
