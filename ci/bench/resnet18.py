"""ResNet-18, batch 1, float16, on npu-bench: its convolutions beside what other tools say of the same machine."""

from __future__ import annotations

from dataclasses import dataclass

import dsa_compiler as dsac
import models
from ci.bench.figures import Figure, Findings
from ci.bench.layers import LayerTime, layer_times, short_tiling
from dsa_compiler.runtime.executable import Executable

WANTED, BUSY = 2.2e6, 0.93


@dataclass(frozen=True)
class Peer:
    """A row of the table of peers: the shape of a convolution (ONNX weights, output size) and cycles by tool.

    ZigZag and Vela are int8 and Vela's includes fused operators; SCALE-Sim is output and weight stationary.
    """

    name: str
    weights: tuple[int, ...]
    size: int
    ideal: int
    zigzag: int
    vela: int
    output_stationary: int
    weight_stationary: int


PEERS = (
    Peer("7x7, 3 to 64, stride 2", (64, 3, 7, 7), 112, 115_248, 180_091, 326_997, 163_855, 126_379),
    Peer("3x3, 64 at 56x56", (64, 64, 3, 3), 56, 112_896, 123_675, 152_500, 125_047, 116_279),
    Peer("3x3, 64 to 128, stride 2", (128, 64, 3, 3), 28, 56_448, 67_838, 76_805, 63_799, 63_215),
    Peer("1x1, 64 to 128, stride 2", (128, 64, 1, 1), 28, 6_272, 7_504, 17_500, 12_599, 7_023),
    Peer("3x3, 128 at 28x28", (128, 128, 3, 3), 28, 112_896, 131_382, 154_100, 121_399, 126_431),
    Peer("3x3, 256 at 14x14", (256, 256, 3, 3), 14, 112_896, 117_003, 155_650, 132_495, 167_039),
    Peer("3x3, 512 at 7x7", (512, 512, 3, 3), 7, 112_896, 123_863, 183_200, 149_439, 329_471),
    Peer("512 to 1000", (1000, 512), 1, 500, 9_393, 12_357, 18_367, 48_639),
)
UNIT = 1024
"""Multiply-accumulates a cycle at peak."""


@dataclass(frozen=True)
class Anchor:
    """A convolution or dense layer: its weights' shape in ONNX, its output's size, and its time alone."""

    weights: tuple[int, ...]
    size: int
    macs: int
    time: LayerTime


def anchors(executable: Executable) -> list[Anchor]:
    """The convolutions and dense layers of a compiled network, each timed alone; graph layouts are channel-last."""
    assert executable.graph is not None
    times = iter(layer_times(executable, ("conv2d", "matmul")))
    result = []
    for compiled in executable.layers:
        layer = compiled.layer
        if layer.kind not in ("conv2d", "matmul"):
            continue
        call = layer.calls[layer.master]
        weights = layer.inputs[int(call.args[1][1])].shape
        shape = (weights[3], weights[2], *weights[:2]) if layer.kind == "conv2d" else (weights[-1], weights[-2])
        size = call.shape[1] if layer.kind == "conv2d" else 1
        macs = _product(call.shape) * _product(shape[1:])
        result.append(Anchor(shape, size, macs, next(times)))
    return result


def _product(extents: tuple[int, ...]) -> int:
    total = 1
    for extent in extents:
        total *= extent
    return total


def measure() -> Findings:
    """Each convolution of the peers' table alone, with what is fused into it, and the sum over all of them."""
    executable = dsac.compile(models.build("resnet18"), "npu-bench", precision="float16")
    timed = anchors(executable)
    found = Findings(
        "ResNet-18, batch 1, npu-bench; dsac in float16, epilogue included, operands in ddr",
        (
            "layer", "MACs / 1024", "dsac", "efficiency", "bound by", "matrix busy", "ZigZag int8", "Vela int8",
            "SCALE-Sim OS", "WS", "tiling",
        ),
    )  # fmt: skip
    for peer in PEERS:
        for one in _first_of_each([a for a in timed if a.weights == peer.weights and a.size == peer.size]):
            ideal = one.macs / UNIT
            found.rows.append(
                (
                    peer.name, ideal, one.time.cycles, ideal / one.time.cycles, one.time.bound_by, one.time.span_busy,
                    peer.zigzag, peer.vela, peer.output_stationary, peer.weight_stationary,
                    short_tiling(one.time.tiling),
                )
            )  # fmt: skip
    total = sum(a.time.cycles for a in timed if a.time.kind == "conv2d")
    whole = executable.simulate(check=False).cycles
    computing = [a.time.span_busy for a in timed if a.time.kind == "conv2d" and a.time.bound_by == "matrix"]
    found.figures.append(Figure("least matrix busy of a compute-bound convolution", min(computing), BUSY))
    found.figures.append(Figure("cycles of all convolutions, each alone", total, WANTED, at_least=False))
    found.notes.append(
        f"{len([a for a in timed if a.time.kind == 'conv2d'])} convolutions; the whole network: {whole:,.0f} cycles."
    )
    found.notes.append(
        "ZigZag: whole network 2.013 M in int8 with its best mapping, 3.246 M in float16; Vela 2.774 M in int8."
    )
    return found


def _first_of_each(found: list[Anchor]) -> list[Anchor]:
    """One anchor for each distinct time: the same convolution may have other operators fused into it."""
    return list({round(a.time.cycles): a for a in found}.values())
