"""Scalar operations of host steps."""

from __future__ import annotations

import numpy as np
import pytest

from dsa_compiler.assemble.host_operations import model_operations
from tests.end_to_end.programs import BOOL, FLOAT, INT64, model_of, node


def f32(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("op", "feeds", "outputs", "attrs", "count"),
    [
        ("Add", {"a": f32(3, 5), "b": f32(5)}, {"y": FLOAT}, {}, 15),
        ("MatMul", {"a": f32(2, 3, 5), "b": f32(5, 7)}, {"y": FLOAT}, {}, 2 * 3 * 7 * 5),
        ("Gemm", {"a": f32(5, 3), "b": f32(5, 7)}, {"y": FLOAT}, {"transA": 1}, 3 * 7 * 5),
        ("Conv", {"a": f32(1, 4, 9, 9), "w": f32(6, 4, 3, 3)}, {"y": FLOAT}, {}, 6 * 49 * 36),
        ("ConvTranspose", {"a": f32(1, 4, 9, 9), "w": f32(4, 6, 3, 3)}, {"y": FLOAT}, {}, 4 * 81 * 54),
        ("ReduceSum", {"a": f32(4, 8)}, {"y": FLOAT}, {"keepdims": 0}, 1 + 32),
        ("ArgMax", {"a": f32(4, 8)}, {"y": INT64}, {"axis": 1}, 4 + 32),
        ("IsNaN", {"a": f32(4, 8)}, {"y": BOOL}, {}, 32),
    ],
)
def test_operations_of_a_node(op, feeds, outputs, attrs, count):
    model = model_of([node(op, list(feeds), list(outputs), **attrs)], feeds, outputs)
    assert model_operations(model) == count


def test_sorts_and_suppression():
    top = model_of([node("TopK", ["a", "k"], ["v", "i"])], {"a": f32(4, 16)}, {"v": FLOAT, "i": INT64},
                   {"k": np.array([3])})  # fmt: skip
    assert model_operations(top) == 2 * 12 + 64 * 6
    nms = model_of([node("NonMaxSuppression", ["b", "s"], ["y"])], {"b": f32(1, 10, 4), "s": f32(1, 2, 10)},
                   {"y": INT64})  # fmt: skip
    assert model_operations(nms) >= 2 * 10 * 10
