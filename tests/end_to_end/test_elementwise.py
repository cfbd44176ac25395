"""Elementwise operators of ONNX through the whole compiler, none of them on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from tests.end_to_end.programs import BOOL, FLOAT, INT32, check_model, model_of, node

PARTS = ("npu-edge", "npu-v1")
SHAPE = (5, 33)


def floats(seed=1):
    x = np.random.default_rng(seed).uniform(-3, 3, SHAPE).astype(np.float32)
    return np.where(np.abs(x) < 0.2, np.float32(0.7), x)


def whole(seed=1):
    return np.random.default_rng(seed).integers(1, 30, SHAPE).astype(np.int32)


def signed(seed=1):
    x = np.random.default_rng(seed).integers(-30, 30, SHAPE).astype(np.int32)
    return np.where(x == 0, 5, x).astype(np.int32)


def truths(seed=1):
    return np.random.default_rng(seed).random(SHAPE) < 0.5


def strange():
    x = floats()
    x[0, :3] = [np.inf, -np.inf, np.nan]
    return x


CASES = [
    ("Mod", {"fmod": 1}, [floats(1), floats(2)], FLOAT),
    ("Mod", {"fmod": 1}, [signed(1), signed(2)], INT32),
    ("Mod", {}, [signed(1), signed(2)], INT32),
    ("BitwiseAnd", {}, [signed(1), signed(2)], INT32),
    ("BitwiseOr", {}, [signed(1), signed(2)], INT32),
    ("BitwiseXor", {}, [signed(1), signed(2)], INT32),
    ("BitwiseNot", {}, [signed(1)], INT32),
    ("Xor", {}, [truths(1), truths(2)], BOOL),
    ("And", {}, [truths(1), truths(2)], BOOL),
    ("Not", {}, [truths(1)], BOOL),
    ("IsInf", {}, [strange()], BOOL),
    ("IsNaN", {}, [strange()], BOOL),
    ("Where", {}, [truths(1), floats(1), floats(2)], FLOAT),
    ("Less", {}, [signed(1), signed(2)], BOOL),
    ("GreaterOrEqual", {}, [floats(1), floats(2)], BOOL),
    ("Equal", {}, [signed(1) % 3, signed(2) % 3], BOOL),
    ("Pow", {}, [np.abs(floats(1)), floats(2)], FLOAT),
    ("PRelu", {}, [floats(1), floats(2)], FLOAT),
    ("Div", {}, [signed(1), whole(2)], INT32),
    ("Max", {}, [floats(1), floats(2), floats(3)], FLOAT),
    ("Mean", {}, [floats(1), floats(2), floats(3)], FLOAT),
    *[
        (op, {}, [floats(1)], FLOAT)
        for op in ("Ceil", "Floor", "Round", "Sign", "Softsign", "Mish", "HardSwish", "Celu", "Elu", "Selu", "Softplus",
                   "HardSigmoid", "Shrink", "ThresholdedRelu", "Erf", "Reciprocal", "Tan", "Sinh", "Atan", "Asinh")
    ],
    *[(op, {}, [floats(1) / 4], FLOAT) for op in ("Asin", "Acos", "Atanh")],
    *[(op, {}, [np.abs(floats(1)) + 1], FLOAT) for op in ("Log", "Sqrt", "Acosh")],
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("op", "attrs", "operands", "kind"), CASES, ids=[f"{c[0]}{n}" for n, c in enumerate(CASES)])
def test_an_elementwise_operator(op, attrs, operands, kind, part):
    feeds = {f"x{n}": x for n, x in enumerate(operands)}
    model = model_of([node(op, list(feeds), ["y"], **attrs)], feeds, {"y": kind})
    check_model(model, feeds, part)


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("part", PARTS)
def test_shifts(direction, part):
    x = np.random.default_rng(1).integers(0, 256, SHAPE).astype(np.uint8)
    by = np.random.default_rng(2).integers(0, 8, SHAPE).astype(np.uint8)
    model = model_of([node("BitShift", ["x", "n"], ["y"], direction=direction)], {"x": x, "n": by}, {"y": 2})
    check_model(model, {"x": x, "n": by}, part)
