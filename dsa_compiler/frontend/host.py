"""Host steps in Relax: calls of a packed function whose name carries the small ONNX model and why it is there."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator
from tvm import ir, relax

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.fold import REFERENCE_ERRORS
from dsa_compiler.frontend.node import Node

PREFIX = "dsac.host:"


@dataclass(frozen=True)
class HostFacts:
    """One host step: a serialised ONNX model, its operands in order, the reason, its operators and nodes by name."""

    model: bytes
    reason: str
    operators: str
    nodes: tuple[str, ...]


def convert_host(node: Node) -> Any:
    """Emit the call of a node `dsac.Host` that `partition` made."""
    extents = [int(n) for n in node.attrs["extents"]]
    types = []
    for rank, dtype in zip(node.attrs["ranks"], node.attrs["dtypes"], strict=True):
        types.append(relax.TensorType(extents[:rank], dtype.decode()))
        extents = extents[rank:]
    facts = {key: node.attrs[key].decode() for key in ("model", "reason", "operators")}
    text = json.dumps({**facts, "nodes": [n.decode() for n in node.attrs["nodes"]]})
    result = node.emit(relax.op.call_dps_packed(PREFIX + text, relax.Tuple(list(node.inputs)), out_ty=types))
    return [result] if len(types) == 1 else [node.emit(relax.TupleGetItem(result, i)) for i in range(len(types))]


def is_host(expr: Any) -> bool:
    """Whether `expr` is the call of a host step."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op) and expr.op.name == "relax.call_dps_packed"


def facts_of(call: relax.Call) -> HostFacts:
    """Return what the call of a host step carries."""
    facts = json.loads(str(call.args[0].global_symbol).removeprefix(PREFIX))
    return HostFacts(base64.b64decode(facts["model"]), facts["reason"], facts["operators"], tuple(facts["nodes"]))


def host_operands(call: relax.Call) -> Sequence[Any]:
    """Return the operands of the call of a host step."""
    return list(call.args[1].fields) if isinstance(call.args[1], relax.Tuple) else [call.args[1]]


def run_host_model(model: bytes, operands: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Return the results of a host step's model, by ONNX's reference; `UserError` if that fails."""
    proto = ModelProto()
    proto.ParseFromString(model)
    feeds = {i.name: x for i, x in zip(proto.graph.input, operands, strict=True)}
    try:
        return [np.asarray(y) for y in ReferenceEvaluator(proto).run(None, feeds)]
    except REFERENCE_ERRORS as error:
        names = "+".join(node.name for node in proto.graph.node)
        raise UserError(f"onnx.reference cannot run it: {error}", where=names, action="check its operands") from error
