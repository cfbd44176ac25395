"""ONNX to Relax: TVM's importer with converters of ours and the origin of every binding."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import tvm
from onnx import GraphProto, ModelProto, NodeProto, defs, helper
from tvm import relax, tirx
from tvm.relax.frontend.onnx import onnx_frontend

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.check import opset_of
from dsa_compiler.frontend.converters import CONVERTERS, is_known, operator_name, stock_converters
from dsa_compiler.frontend.fold import infer_types
from dsa_compiler.frontend.host import convert_host
from dsa_compiler.frontend.node import Node
from dsa_compiler.frontend.partition import HOST_DOMAIN, partition
from dsa_compiler.frontend.shapes import static_shape

NODES = "dsac.nodes"  # attribute of `main`: binding name -> ONNX node name
INPUTS = "dsac.inputs"  # attribute of `main`: ONNX names of the parameters
OUTPUTS = "dsac.outputs"  # attribute of `main`: ONNX names of the results
_TVM_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, ArithmeticError,
               MemoryError)  # fmt: skip


def import_model(model: ModelProto, host: Mapping[str, str] | None = None) -> tvm.IRModule:
    """Return the Relax module of a model that `load_model` made.

    `main` takes the model's inputs in order and returns its output, or a tuple of its outputs in order. Its attributes
    `dsac.nodes`, `dsac.inputs` and `dsac.outputs` lead back to ONNX names. Nodes that cannot be converted become
    host steps (`frontend.host`), and so do those that `host` names, with a reason for each.
    """
    check_operators(model.graph)
    reasons = {n.name: f"no converter for {operator_name(n)}" for n in model.graph.node if not is_known(n)}
    reasons |= host or {}
    shapes = {i.name: list(static_shape(i) or ()) for i in model.graph.input}  # TVM takes an extent of 0 for a symbol
    while True:
        planned = partition(model, reasons)
        importer = _Importer(shapes, {}, sanitize=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mod = importer.from_onnx(planned.graph, opset_of(model))
        if not importer.failures:
            break
        infer_types(model, strict=True)  # operands that do not fit are the model's fault
        reasons |= importer.failures
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


def check_operators(graph: GraphProto) -> None:
    """Raise `UserError` that lists every node whose operator neither we nor ONNX define."""
    strange = [n for n in graph.node if not is_known(n) and not (n.domain in ("", "ai.onnx") and defs.has(n.op_type))]
    if strange:
        listing = ", ".join(f"{operator_name(n)} ({n.name})" for n in strange)
        raise UserError(f"operators not defined: {listing}", where="model", action="remove or rewrite them")


def _check_static(expr: Any, node: NodeProto) -> None:
    """Raise `UserError` for a result that is no tensor of known shape."""
    ty = getattr(expr, "ty", None)
    if isinstance(expr, relax.Call) and ty is None:
        return
    shape = ty.shape if isinstance(ty, relax.TensorType) else None
    if not isinstance(shape, relax.ShapeExpr) or not all(isinstance(d, tirx.IntImm) for d in shape.values):
        raise UserError("a result is no tensor of known shape", where=f"{node.op_type} {node.name}")


class _Unavailable(Exception):
    """An operand of a node was not converted."""


class _Importer(onnx_frontend.ONNXGraphImporter):  # type: ignore[misc]
    """Converters of ours first, TVM's where there is none; notes where each node's bindings end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ends: dict[str, str] = {}
        self._stock = stock_converters()
        self.failures: dict[str, str] = {}  # node -> why it cannot be converted

    def _check_for_unsupported_ops(self, graph: GraphProto) -> None:
        """Do nothing: what is not supported has become a host step."""

    def _construct_nodes(self, graph: GraphProto) -> None:
        for node in graph.node:
            try:
                results = self._convert(node)
            except UserError as error:
                self.failures[node.name] = error.problem
                results = []
            except _Unavailable:
                results = []
            for name, result in zip(node.output, results, strict=False):
                if name:
                    self._nodes[name] = result
        for output in graph.output if self.failures else ():
            self._nodes.setdefault(output.name, relax.const(0.0))  # nobody reads this module

    def _convert(self, node: NodeProto) -> list[Any]:
        if any(name and name not in self._nodes for name in node.input):
            raise _Unavailable
        inputs = [self._nodes[i] if i else None for i in node.input]
        hint = binding_name(node.name)

        def emit(expr: Any) -> Any:
            var = self.bb.emit(expr, name_hint=hint)
            self._ends[var.name] = node.name
            return var

        domain = node.domain if node.domain != "ai.onnx" else ""
        try:
            converter = convert_host if domain == HOST_DOMAIN else CONVERTERS.get((domain, node.op_type))
            if converter is None:
                results = self._convert_stock(node, inputs)
            else:
                attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                results = converter(Node(node.op_type, node.name, attrs, self.opset, inputs, len(node.output), emit))
        except UserError:
            raise
        except _TVM_ERRORS as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise UserError(
                f"cannot be converted: {reason}", where=f"{node.op_type} {node.name}", action="check its inputs"
            ) from error
        results = list(results) if isinstance(results, list | tuple | relax.Tuple) else [results]
        if any(node.output[len(results) :]):
            raise UserError(f"no converter for more than {len(results)} results", where=f"{node.op_type} {node.name}")
        for result in results:
            _check_static(result, node)
        results = [emit(r) if isinstance(r, relax.Call | relax.TupleGetItem) else self._mark(r, node) for r in results]
        for result in results:
            _check_static(result, node)
        return results

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
