"""Damaged models: whatever is wrong with one, the answer is a `UserError`, never another exception."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dsa_compiler.errors import UserError
from dsa_compiler.frontend import load_model
from dsa_compiler.graph.build import build_graph
from dsa_compiler.lower.lower import lacking

NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 16, 255, 2**31 - 1, 10**9, 10**12, 2**63 - 1)
TEXTS = ("", "x", "y", "a", "w", "nowhere", "Conv", "Relu", "If", "Loop", "Constant", "com.microsoft", "axis", "\0")
VALUE = helper.make_tensor_value_info
NODE = helper.make_node


def model_of(nodes: list[Any], shape: list[int], constants: dict[str, Any]) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [VALUE("x", TensorProto.FLOAT, shape)], [VALUE("y", TensorProto.FLOAT, None)],
                              tensors)  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def convolution() -> onnx.ModelProto:
    ones = np.ones((4, 3, 3, 3), np.float32)
    return model_of(
        [NODE("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]), NODE("Relu", ["a"], ["c"]),
         NODE("MaxPool", ["c"], ["d"], kernel_shape=[2, 2]), NODE("Flatten", ["d"], ["e"]),
         NODE("Gemm", ["e", "v"], ["y"], transB=1)],
        [1, 3, 8, 8], {"w": ones, "b": np.ones(4, np.float32), "v": np.ones((5, 36), np.float32)},
    )  # fmt: skip


def shape_arithmetic() -> onnx.ModelProto:
    return model_of(
        [NODE("Shape", ["x"], ["s"]), NODE("Gather", ["s", "zero"], ["n"]), NODE("Unsqueeze", ["n", "axes"], ["u"]),
         NODE("Concat", ["u", "rest"], ["t"], axis=0), NODE("Reshape", ["x", "t"], ["r"]),
         NODE("Transpose", ["r"], ["p"], perm=[1, 0]), NODE("MatMul", ["p", "r"], ["m"]),
         NODE("Softmax", ["m"], ["y"], axis=-1)],
        [2, 3, 4], {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])},
    )  # fmt: skip


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [NODE("Add", ["c", "one"], ["d"]), NODE("Identity", ["go"], ["on"])], "body",
        [VALUE("i", TensorProto.INT64, []), VALUE("go", TensorProto.BOOL, []), VALUE("c", TensorProto.FLOAT, [2])],
        [VALUE("on", TensorProto.BOOL, []), VALUE("d", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.float32(1), "one")],
    )  # fmt: skip
    return model_of([NODE("Loop", ["n", "", "x"], ["y"], body=body)], [2], {"n": np.array(3)})


MODELS = (convolution(), shape_arithmetic(), loop())


def check(source: onnx.ModelProto | bytes) -> None:
    """Compile down to layers, or be told why not."""
    try:
        build_graph(load_model(source), "float16", lacking)
    except UserError as error:
        assert error.action and str(error)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(MODELS), st.integers(0, 2**32))
def test_damaged_bytes(model: onnx.ModelProto, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(model.SerializeToString())
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data))
        if rng.random() < 0.7:
            data[place] = rng.randrange(256)
        else:
            del data[place : place + rng.choice((1, 3, 40))]
    check(bytes(data))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.sampled_from(MODELS), st.integers(0, 2**32))
def test_damaged_fields(model: onnx.ModelProto, seed: int) -> None:
    rng = random.Random(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(rng.choice((1, 1, 2, 4))):
        damage(copy, rng)
    check(copy)


def damage(message: Any, rng: random.Random) -> None:
    """Change one field at random, somewhere inside a message."""
    fields = list(message.ListFields())
    inner = [v for f, v in fields if f.message_type and not f.is_repeated]
    inner += [v for f, vs in fields if f.message_type and f.is_repeated for v in vs]
    if inner and rng.random() < 0.85:
        damage(rng.choice(inner), rng)
    elif fields:
        change(message, *rng.choice(fields), rng)


def change(message: Any, field: Any, value: Any, rng: random.Random) -> None:
    """Remove, repeat or replace a field's value."""
    if rng.random() < 0.3:
        message.ClearField(field.name)
    elif field.is_repeated and rng.random() < 0.5:
        if field.message_type:
            value.add().CopyFrom(rng.choice(value))
        else:
            value.append(rng.choice(value))
    elif field.is_repeated:
        del value[rng.randrange(len(value))]
    elif field.type == field.TYPE_STRING:
        setattr(message, field.name, rng.choice(TEXTS))
    elif field.type == field.TYPE_INT64:
        setattr(message, field.name, rng.choice(NUMBERS))
    elif field.type == field.TYPE_INT32:
        setattr(message, field.name, rng.choice([n for n in NUMBERS if abs(n) < 2**31]))
