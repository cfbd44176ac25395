"""ONNX to Relax: TVM's importer with converters of ours and the origin of every binding."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import tvm
from onnx import GraphProto, ModelProto, NodeProto, TypeProto, helper
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.converters import CONVERTERS
from dsa_compiler.frontend.load import opset_of
from dsa_compiler.frontend.node import Node

NODES = "dsac.nodes"  # attribute of `main`: binding name -> ONNX node name
INPUTS = "dsac.inputs"  # attribute of `main`: ONNX names of the parameters
OUTPUTS = "dsac.outputs"  # attribute of `main`: ONNX names of the results


def import_model(model: ModelProto) -> tvm.IRModule:
    """Return the Relax module of a model that `load_model` made.

    `main` takes the model's inputs in order and returns its output, or a tuple of its outputs in order. Its attributes
    `dsac.nodes`, `dsac.inputs` and `dsac.outputs` lead back to ONNX names. Raises `UserError` that lists
    every node whose operator is not supported, or names the node that cannot be converted.
    """
    importer = _Importer({}, {}, sanitize=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mod = importer.from_onnx(_with_safe_inputs(model.graph), opset_of(model))
    main = mod["main"].with_attrs(
        {
            NODES: importer.origins(mod["main"]),
            INPUTS: [i.name for i in model.graph.input],
            OUTPUTS: [o.name for o in model.graph.output],
        }
    )
    mod["main"] = main.without_attr("num_input")
    return mod


def binding_name(name: str) -> str:
    """Return `name` as an identifier."""
    text = re.sub(r"\W+", "_", name).strip("_")
    return text if text and not text[0].isdigit() else f"n_{text}"


def _with_safe_inputs(graph: GraphProto) -> GraphProto:
    """Return the graph as the importer wants it (it may be the argument)."""
    for value in graph.input:
        if not isinstance(value.type, TypeProto) or not value.type.HasField("tensor_type"):
            raise UserError("it is no tensor", where=f"input {value.name}", action="use tensors as inputs")
    return graph


class _Importer(onnx_frontend.ONNXGraphImporter):  # type: ignore[misc]
    """Converters of ours first, TVM's where there is none; notes where each node's bindings end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ends: dict[str, str] = {}
        self._stock = onnx_frontend._get_convert_map()

    def _check_for_unsupported_ops(self, graph: GraphProto) -> None:
        missing = [n for n in graph.node if not self._known(n)]
        if missing:
            listing = ", ".join(f"{n.op_type} ({n.name})" for n in missing)
            raise UserError(f"operators not supported: {listing}", where="model", action="remove or rewrite them")

    def _known(self, node: NodeProto) -> bool:
        key = (node.domain if node.domain != "ai.onnx" else "", node.op_type)
        return key in CONVERTERS or (key[0] == "" and node.op_type in self._stock)

    def _construct_nodes(self, graph: GraphProto) -> None:
        for node in graph.node:
            results = self._convert(node)
            for name, result in zip(node.output, results, strict=False):
                if name:
                    self._nodes[name] = result

    def _convert(self, node: NodeProto) -> list[Any]:
        inputs = [self._nodes[i] if i else None for i in node.input]
        hint = binding_name(node.name)

        def emit(expr: Any) -> Any:
            var = self.bb.emit(expr, name_hint=hint)
            self._ends[var.name] = node.name
            return var

        domain = node.domain if node.domain != "ai.onnx" else ""
        try:
            converter = CONVERTERS.get((domain, node.op_type))
            if converter is None:
                results = self._convert_stock(node, inputs)
            else:
                attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                results = converter(Node(node.op_type, node.name, attrs, self.opset, inputs, len(node.output), emit))
        except UserError:
            raise
        except Exception as error:  # TVM raises many kinds
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise UserError(
                f"cannot be converted: {reason}", where=f"{node.op_type} {node.name}", action="check its inputs"
            ) from error
        results = list(results) if isinstance(results, list | tuple | relax.Tuple) else [results]
        return [emit(r) if isinstance(r, relax.Call | relax.TupleGetItem) else self._mark(r, node) for r in results]

    def _mark(self, expr: Any, node: NodeProto) -> Any:
        if isinstance(expr, relax.Var):
            self._ends.setdefault(expr.name, node.name)
        return expr

    def _convert_stock(self, node: NodeProto, inputs: list[Any]) -> Any:
        attrs = self._parse_attr(node.attribute)
        attrs["tvm_custom"] = {"name": node.name, "num_outputs": len(node.output)}
        padded = onnx_frontend.onnx_input()
        for value in inputs:
            padded.append(value)
        converter = self._stock[node.op_type].get_converter(self.opset)
        result = converter(self.bb, padded, attrs, [self._nodes, self._params])
        if isinstance(result, relax.Expr) and not isinstance(result, relax.Tuple):
            result = self.bb.normalize(result)
            if isinstance(result.ty, relax.TupleType):
                result = self.bb.emit(result)
                return [self.bb.emit(relax.TupleGetItem(result, i)) for i in range(len(result.ty.fields))]
        return result

    def origins(self, main: relax.Function) -> Mapping[str, str]:
        """Return the ONNX node of each binding: that of the next binding which ends a node."""
        table: dict[str, str] = {}
        pending: list[str] = []
        for block in main.body.blocks:
            for binding in block.bindings:
                pending.append(binding.var.name)
                node = self._ends.get(binding.var.name)
                if node is not None:
                    table.update(dict.fromkeys(pending, node))
                    pending = []
        return table
