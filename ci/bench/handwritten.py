"""Compiled kernels beside the hand-written programs of the same shapes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

import dsa_compiler as dsac
from ci.bench.cases import one_cluster, one_node, random_weights
from ci.bench.figures import Figure, Findings
from ci.bench.layers import layer_program, short_tiling, tiling_of
from ci.handwritten.program import Handwritten
from ci.handwritten.programs import PROGRAMS
from dsa_compiler.program.assembler import parse_program
from dsa_compiler.program.tables import Program
from dsa_compiler.report import build_report
from dsa_compiler.runtime.executable import Executable
from dsa_compiler.simulator.timing import Timing, time_program

WANTED = 0.9
HALF = TensorProto.FLOAT16


@dataclass(frozen=True)
class Counterpart:
    """The model of a hand-written program. `anchor` is the kind of the one layer that is compared, where the model
    needs layers for its layout; "" compares the whole program."""

    name: str
    model: Callable[[], ModelProto]
    anchor: str = ""
    whole_part: bool = True


def _convolution(taps: int) -> ModelProto:
    shape, weights = (16, 256, 56, 56), {"w": random_weights(256, 256, taps, taps)}
    return one_node("Conv", {"x": shape}, shape, weights, HALF, kernel_shape=[taps] * 2, pads=[taps // 2] * 4)


def _depthwise() -> ModelProto:
    shape, weights = (16, 96, 112, 112), {"w": random_weights(96, 1, 3, 3)}
    return one_node("Conv", {"x": shape}, shape, weights, HALF, kernel_shape=[3, 3], pads=[1] * 4, group=96)


def _max_pooling() -> ModelProto:
    window = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]}
    return one_node("MaxPool", {"x": (16, 64, 112, 112)}, (16, 64, 56, 56), {}, HALF, **window)


def _layer_normalization() -> ModelProto:
    rows = {name: random_weights(1024, 1)[:, 0] for name in ("gamma", "beta")}
    return one_node("LayerNormalization", {"x": (4096, 1024)}, (4096, 1024), rows, HALF, axis=-1)


def _reduction() -> ModelProto:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], name="ReduceSum", keepdims=0)
    tensors = [helper.make_tensor_value_info(n, HALF, s) for n, s in (("x", (16384, 1024)), ("y", (1024,)))]
    axes = numpy_helper.from_array(np.array([0]), "axes")
    graph = helper.make_graph([node], "reduction", tensors[:1], tensors[1:], [axes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _attention() -> ModelProto:
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], name="Transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["q", "kt"], ["s"], name="Scores"),
        helper.make_node("Mul", ["s", "scale"], ["scaled"], name="Scale"),
        helper.make_node("Softmax", ["scaled"], ["p"], name="Softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["o"], name="Values"),
    ]
    tensors = [helper.make_tensor_value_info(name, HALF, (2048, 64)) for name in "qkvo"]
    scale = numpy_helper.from_array(np.array(64**-0.5, np.float16), "scale")
    graph = helper.make_graph(nodes, "attention", tensors[:3], tensors[3:], [scale])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


COUNTERPARTS = (
    Counterpart(
        "matrix product",
        lambda: one_node("MatMul", {"a": (4096, 1024)}, (4096, 1024), {"w": random_weights(1024, 1024)}, HALF),
        whole_part=False,
    ),
    Counterpart("1x1 convolution", lambda: _convolution(1), "conv2d"),
    Counterpart("3x3 convolution", lambda: _convolution(3), "conv2d"),
    Counterpart("depthwise convolution", _depthwise, "depthwise"),
    Counterpart("softmax", lambda: one_node("Softmax", {"x": (4096, 1024)}, (4096, 1024), {}, HALF), whole_part=False),
    Counterpart("layer normalisation", _layer_normalization, whole_part=False),
    Counterpart("attention", _attention, whole_part=False),
    Counterpart("max pooling", _max_pooling, "pool"),
    Counterpart("transpose", lambda: one_node("Transpose", {"x": (4096, 2048)}, (2048, 4096), {}, HALF, perm=[1, 0])),
    Counterpart("reduction", _reduction),
)


def measure(names: tuple[str, ...]) -> Findings:
    """Each program's cycles by hand and compiled; figures are by hand over compiled."""
    found = Findings(
        "compiled kernels against the hand-written programs",
        ("program", "by hand", "compiled", "by hand / compiled", "layers", "bound by", "busiest", "tiling"),
    )
    written = {program.name: program for program in PROGRAMS}
    for counterpart in COUNTERPARTS:
        if names and not any(counterpart.name.startswith(name) for name in names):
            continue
        by_hand = _cycles_by_hand(written[counterpart.name])
        executable = _compile(counterpart)
        program, tiling = _compared(executable, counterpart.anchor)
        timing = time_program(program)
        share = by_hand / timing.cycles
        bound = ", ".join(row["bound_by"] for row in build_report(program, timing)["layers"])
        row = (counterpart.name, by_hand, timing.cycles, share, len(program.kernels), bound, _busiest(program, timing))
        found.rows.append((*row, tiling))
        found.figures.append(Figure(f"{counterpart.name}, by hand / compiled", share, WANTED))
    found.notes.append("Convolutions and pooling: the kernel alone, channel-last in ddr; others: the whole program.")
    return found


def _cycles_by_hand(written: Handwritten) -> float:
    return time_program(parse_program(written.text(), written.name)).cycles


def _compile(counterpart: Counterpart) -> Executable:
    with nullcontext("npu-v1") if counterpart.whole_part else one_cluster() as part:
        return dsac.compile(counterpart.model(), part)


def _compared(executable: Executable, anchor: str) -> tuple[Program, str]:
    """The program that is timed, and its tilings."""
    if not anchor:
        return executable.program, "; ".join(short_tiling(tiling_of(c)) for c in executable.layers)
    number = next(n for n, c in enumerate(executable.layers) if c.layer.kind == anchor)
    return layer_program(executable, number), short_tiling(tiling_of(executable.layers[number]))


def _busiest(program: Program, timing: Timing) -> str:
    """The kind of engine, or ddr, that is used most of the time, with its share."""
    shares = dict(timing.busy_share())
    moved = timing.traffic.get(("ddr", "read"), 0.0) + timing.traffic.get(("ddr", "written"), 0.0)
    shares["ddr"] = moved / program.target.memory["ddr"].bandwidth / timing.cycles
    name = max(shares, key=lambda each: shares[each])
    return f"{name} {shares[name]:.2f}"
