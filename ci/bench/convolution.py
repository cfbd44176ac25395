"""A 3x3 convolution, 256 to 256 channels, 56 x 56, batch 16, float16, on npu-v1."""

from __future__ import annotations

from onnx import TensorProto

import dsa_compiler as dsac
from ci.bench.cases import one_node, random_weights
from ci.bench.figures import Figure, Findings
from ci.bench.layers import layer_times, short_tiling

BATCH, CHANNELS, SIZE = 16, 256, 56
WANTED, BUSY, BY_HAND = 0.85, 0.93, 0.93


def measure() -> Findings:
    """A Conv node in NCHW float16: its kernel alone, the layers around it, and all together."""
    shape = (BATCH, CHANNELS, SIZE, SIZE)
    weights = {"w": random_weights(CHANNELS, CHANNELS, 3, 3)}
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    model = one_node("Conv", {"x": shape}, shape, weights, TensorProto.FLOAT16, **window)
    executable = dsac.compile(model, "npu-v1")
    ideal = executable.program.info["mac_cycles"]
    found = Findings(
        "3x3, 256 to 256, 56 x 56, batch 16, float16, npu-v1",
        ("what", "kind", "cycles", "efficiency", "matrix busy, first to last product", "tiling"),
    )
    for layer in layer_times(executable):
        anchor = layer.kind == "conv2d"
        efficiency = ideal / layer.cycles if anchor else None
        busy = layer.span_busy if anchor else None
        found.rows.append(
            (f"layer {layer.name} alone", layer.kind, layer.cycles, efficiency, busy, short_tiling(layer.tiling))
        )
        if anchor:
            what = "efficiency of the kernel, operands in ddr channel-last"
            found.figures.append(Figure(what, ideal / layer.cycles, WANTED))
            found.figures.append(Figure("matrix engine busy from first to last product", layer.span_busy, BUSY))
    whole = executable.simulate(check=False).cycles
    found.rows.append(("whole model, NCHW in and out", "", whole, ideal / whole, None, ""))
    found.notes.append(f"By hand {BY_HAND}. Efficiency is MACs at peak over cycles ({ideal:,.0f} cycles at peak).")
    return found
