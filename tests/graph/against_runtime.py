"""Comparison of compiled graphs with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsa_compiler.frontend import import_model, load_model
from dsa_compiler.graph import LayerGraph, evaluate, extract_layers, optimize

TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(bool)": "bool"}


def random_inputs(session: Any, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    inputs = {}
    for i in session.get_inputs():
        dtype = TYPES[i.type]
        real = rng.standard_normal(i.shape)
        inputs[i.name] = real.astype(dtype) if dtype[0] == "f" else rng.integers(0, 2, i.shape).astype(dtype)
    return inputs


def relative_error(actual: Any, expected: Any) -> float:
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    if a.size == 0:
        return 0.0
    return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-12))


@pytest.fixture(scope="session")
def build() -> Callable[..., onnx.ModelProto]:
    """Return a function that makes a model of nodes, input shapes, output names and constants."""

    def make(
        nodes: list[Any], inputs: dict[str, Any], outputs: list[str], constants: dict[str, Any] | None = None,
        opset: int = 17, types: dict[str, int] | None = None,
    ) -> onnx.ModelProto:  # fmt: skip
        types = types or {}
        infos = [helper.make_tensor_value_info(n, types.get(n, TensorProto.FLOAT), s) for n, s in inputs.items()]
        results = [helper.make_tensor_value_info(n, types.get(n, TensorProto.FLOAT), None) for n in outputs]
        tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
        graph = helper.make_graph(nodes, "test", infos, results, tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

    return make


@pytest.fixture(scope="session")
def compare() -> Callable[..., LayerGraph]:
    """Return a function that compiles a model to layers, compares their values and returns them."""

    def check(model: Any, tolerance: float = 1e-5, precision: Any = None, **shapes: Any) -> LayerGraph:
        loaded = load_model(model, **shapes)
        graph = extract_layers(optimize(import_model(loaded), precision))
        session = onnxruntime.InferenceSession(loaded.SerializeToString(), providers=["CPUExecutionProvider"])
        inputs = random_inputs(session)
        expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))
        actual = evaluate(graph, inputs)
        for name, value in expected.items():
            assert actual[name].dtype == value.dtype
            assert relative_error(actual[name], value) < tolerance, name
        return graph

    return check
