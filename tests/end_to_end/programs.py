"""Small ONNX models compiled and run in full, compared with ONNX's reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import dsa_compiler as dsac
from dsa_compiler.runtime.executable import Executable
from dsa_compiler.target import Target

TOLERANCES = {"float32": 1e-4, "float16": 2e-2}


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attrs: Any) -> onnx.NodeProto:
    """A node."""
    return helper.make_node(op, list(inputs), list(outputs), **attrs)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    feeds: Mapping[str, np.ndarray],
    outputs: Mapping[str, int],
    constants: Mapping[str, Any] | None = None,
    opset: int = 18,
) -> ModelProto:
    """A model whose inputs have the shapes and dtypes of `feeds`; `outputs` gives their element types."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), list(x.shape))
        for name, x in feeds.items()
    ]
    results = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", inputs, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def check_model(
    model: ModelProto, feeds: Mapping[str, np.ndarray], part: str | Target, precision: str = "float32",
    *, host: bool = False,
) -> Executable:  # fmt: skip
    """Compile, run and compare every output; without `host` nothing may be left to the CPU."""
    executable = dsac.compile(model, part, precision)
    assert host or executable.report["host_steps"] == []
    got = executable.run(dict(feeds))
    names = [o.name for o in model.graph.output]
    for name, want in zip(names, ReferenceEvaluator(model).run(names, dict(feeds)), strict=True):
        want = np.asarray(want)
        assert got[name].dtype == want.dtype
        assert got[name].shape == want.shape
        scale = max(float(np.abs(want.astype(np.float64)).max(initial=0)), 1e-6) if want.dtype != bool else 1.0
        tolerance = TOLERANCES[precision] * scale if want.dtype.kind == "f" else 0
        np.testing.assert_allclose(got[name], want, rtol=0, atol=tolerance, err_msg=name)
    return executable


FLOAT, INT64, INT32, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL
