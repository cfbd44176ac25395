"""Seeded graphs that combine movements, gathers and elementwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from tests.end_to_end.programs import FLOAT, check_model, model_of, node

MOST_ELEMENTS = 6000


class Drawing:
    """A graph that grows by one operator at a time from input `x`; `value` is what it computes so far."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.shape = tuple(int(n) for n in self.random.integers(2, 9, self.random.integers(2, 5)))
        self.x = self.random.standard_normal(self.shape).astype(np.float32)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Any] = {}
        self.name = "x"
        self.earlier = ["x"]

    def add(self, op: str, shape: tuple[int, ...], *operands: Any, **attrs: Any) -> None:
        """Append operator `op` on the value so far and constant operands."""
        names = [self.name]
        for operand in operands:
            names.append(f"c{len(self.constants)}")
            self.constants[names[-1]] = operand
        self.name = f"t{len(self.nodes)}"
        self.nodes.append(node(op, names, [self.name], **attrs))
        self.shape = shape

    def axis(self) -> int:
        return int(self.random.integers(len(self.shape)))

    def changed(self, axis: int, extent: int) -> tuple[int, ...]:
        return (*self.shape[:axis], extent, *self.shape[axis + 1 :])

    def transpose(self) -> None:
        order = [int(a) for a in self.random.permutation(len(self.shape))]
        self.add("Transpose", tuple(self.shape[a] for a in order), perm=order)

    def reshape(self) -> None:
        cut = int(self.random.integers(1, len(self.shape) + 1))
        shape = (math.prod(self.shape[:cut]), *self.shape[cut:])
        self.add("Reshape", shape, np.array(shape))

    def slice(self) -> None:
        axis = self.axis()
        extent = self.shape[axis]
        step = int(self.random.choice([1, 1, 2, -1, -2]))
        begin = int(self.random.integers(0, extent))
        places = range(extent)[begin::step]
        end = 10_000 if step > 0 else -10_000
        self.add("Slice", self.changed(axis, len(places)), *(np.array([n]) for n in (begin, end, axis, step)))

    def pad(self) -> None:
        mode = str(self.random.choice(["constant", "edge", "reflect"]))
        most = np.minimum(np.array(self.shape) - 1, 3)
        pads = self.random.integers(0, np.concatenate([most, most]) + 1)
        before, after = pads[: len(self.shape)], pads[len(self.shape) :]
        self.add("Pad", tuple(int(n) for n in np.array(self.shape) + before + after), pads, mode=mode)

    def gather(self) -> None:
        axis = self.axis()
        places = self.random.integers(-self.shape[axis], self.shape[axis], int(self.random.integers(1, 9)))
        self.add("Gather", self.changed(axis, len(places)), places, axis=axis)

    def tile(self) -> None:
        repeats = self.random.integers(1, 3, len(self.shape))
        self.add("Tile", tuple(int(n) for n in repeats * self.shape), repeats)

    def scale(self) -> None:
        self.add("Mul", self.shape, self.random.standard_normal(self.shape[-1]).astype(np.float32))

    def join(self) -> None:
        axis, before = self.axis(), self.name
        self.add("Neg", self.shape)
        other = self.name
        self.name = f"t{len(self.nodes)}"
        self.nodes.append(node("Concat", [other, before], [self.name], axis=axis))
        self.shape = self.changed(axis, 2 * self.shape[axis])

    def grow(self, count: int) -> onnx.ModelProto:
        steps: list[Callable[[], None]] = [
            self.transpose, self.reshape, self.slice, self.pad, self.gather, self.tile, self.scale, self.join,
        ]  # fmt: skip
        while len(self.nodes) < count:
            step = steps[int(self.random.integers(len(steps)))]
            if step in (self.tile, self.join, self.pad) and math.prod(self.shape) > MOST_ELEMENTS:
                step = self.transpose
            step()
        self.add("Abs", self.shape)
        self.nodes[-1].output[0] = "y"
        return model_of(self.nodes, {"x": self.x}, {"y": FLOAT}, self.constants)


@pytest.mark.parametrize("part", ["npu-edge", "npu-v2"])
@pytest.mark.parametrize("seed", range(12))
def test_a_graph_of_movements(seed: int, part: str) -> None:
    drawing = Drawing(seed)
    check_model(drawing.grow(6), {"x": drawing.x}, part)
