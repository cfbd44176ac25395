"""The product 4096 x 1024 x 1024 in float16 on one cluster of npu-v1."""

from __future__ import annotations

from onnx import TensorProto

import dsa_compiler as dsac
from ci.bench.cases import one_cluster, one_node, random_weights
from ci.bench.figures import Figure, Findings
from ci.bench.layers import matrix_span_busy, short_tiling, tiling_of

M, N, K = 4096, 1024, 1024
WANTED, BUSY, BY_HAND = 0.90, 0.93, 0.94


def measure() -> Findings:
    """A MatMul node whose right operand is a constant, and one with both as inputs; layouts are as they stand."""
    found = Findings(
        f"{M} x {K} x {N}, float16, npu-v1 cut to one cluster",
        ("right operand", "layers", "cycles", "MAC utilisation", "matrix busy, first to last product", "tiling"),
    )
    weights = {"w": random_weights(K, N)}
    for what, inputs, constants in (
        ("constant", {"a": (M, K)}, weights),
        ("input", {"a": (M, K), "w": (K, N)}, {}),
    ):
        model = one_node("MatMul", inputs, (M, N), constants, TensorProto.FLOAT16)
        with one_cluster() as part:
            executable = dsac.compile(model, part)
        run = executable.simulate(check=False)
        share = executable.program.info["mac_cycles"] / run.cycles
        busy = matrix_span_busy(executable.program, run.timing)
        found.rows.append(
            (what, len(executable.layers), run.cycles, share, busy, short_tiling(tiling_of(executable.layers[-1])))
        )
        if constants:
            found.figures.append(Figure("MAC utilisation, constant right operand", share, WANTED))
            found.figures.append(Figure("matrix engine busy from first to last product", busy, BUSY))
    found.notes.append(f"By hand {BY_HAND}. The model is its kernel alone, without cast or layout layers.")
    return found
