"""Constant folding of an ONNX graph with `onnx.reference`, shape arithmetic included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.shapes import static_shape

LARGE = 1024  # elements: tensors above it play no part in shape inference
ROUNDS = 32
_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
                     "Multinomial"})  # fmt: skip
_KEPT = frozenset({"DequantizeLinear"})  # its operand says that products may be in integers


def fold_constants(model: ModelProto) -> None:
    """Replace, in place, every node whose inputs are constants by its value, until nothing changes.

    A `Shape` or `Size` of a value of known shape is a constant.
    """
    for _ in range(ROUNDS):
        shapes = infer_shapes(model)
        changed = _resolve_shapes(model, shapes)
        changed |= _fold_round(model)
        if not changed or not any(n.op_type in ("Shape", "Size", "Reshape") for n in model.graph.node):
            return


def infer_shapes(model: ModelProto, strict: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the static shapes that ONNX's inference finds; `strict` raises for a node whose operands do not fit."""
    values = infer_types(model, strict)
    found = {v.name: static_shape(v) for v in values if v.type.HasField("tensor_type")}
    shapes = {name: shape for name, shape in found.items() if shape is not None}
    shapes.update({t.name: tuple(t.dims) for t in model.graph.initializer})
    return shapes


def infer_types(model: ModelProto, strict: bool = False) -> list[ValueInfoProto]:
    """Return what ONNX's inference finds about every value; large constants are left out of its input."""
    skeleton = ModelProto()
    skeleton.ir_version = max(model.ir_version, 4)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = "skeleton"
    graph.node.extend(n for n in model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) <= LARGE:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True, strict_mode=strict).graph
    except onnx.shape_inference.InferenceError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"shapes do not fit: {reason}", where="model", action="check --shape and the model") from error
    return [*inferred.value_info, *inferred.output, *inferred.input]


def _resolve_shapes(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Replace `Shape` and `Size` of values of known shape."""
    kept: list[NodeProto] = []
    for node in model.graph.node:
        shape = shapes.get(node.input[0]) if node.op_type in ("Shape", "Size") and node.domain == "" else None
        if shape is None:
            kept.append(node)
            continue
        attrs = {a.name: a.i for a in node.attribute}
        part = shape[attrs.get("start", 0) : attrs.get("end")] if node.op_type == "Shape" else int(np.prod(shape))
        _add_constant(model.graph, node.output[0], np.asarray(part, np.int64))
    changed = len(kept) != len(model.graph.node)
    if changed:
        del model.graph.node[:]
        model.graph.node.extend(kept)
    return changed


def _add_constant(graph: GraphProto, name: str, value: npt.NDArray[Any]) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))


def _constant_value(node: NodeProto, name: str) -> TensorProto | None:
    """Return the tensor of a `Constant` node, whatever attribute holds it."""
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = name
        return tensor
    value = helper.get_attribute_value(attribute)
    if attribute.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.asarray(value, np.int64), name)
    if attribute.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.asarray(value, np.float32), name)
    return None


def _foldable(node: NodeProto, known: set[str]) -> bool:
    if node.op_type in _RANDOM or node.op_type in _KEPT or node.domain not in ("", "ai.onnx"):
        return False
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        return False
    return all(not name or name in known for name in node.input)


def _fold_round(model: ModelProto) -> bool:
    """Fold every node that depends on constants alone; whether there was one."""
    graph = model.graph
    known = {t.name for t in graph.initializer}
    kept: list[NodeProto] = []
    folded: list[NodeProto] = []
    for node in graph.node:
        tensor = _constant_value(node, node.output[0]) if node.op_type == "Constant" and node.attribute else None
        if tensor is not None:
            graph.initializer.append(tensor)
            known.add(tensor.name)
        elif _foldable(node, known):
            folded.append(node)
            known.update(o for o in node.output if o)
        else:
            kept.append(node)
    if len(kept) == len(graph.node):
        return False
    wanted = {name for node in kept for name in node.input} | {o.name for o in graph.output}
    wanted |= {name for node in kept for a in node.attribute if a.HasField("g") for name in _reads(a.g)}
    evaluated = _evaluate(model, folded, wanted) if folded else {}
    for name, value in evaluated.items():
        _add_constant(graph, name, value)
    del graph.node[:]
    graph.node.extend(kept)
    return True


def _reads(graph: GraphProto) -> set[str]:
    names = {name for node in graph.node for name in node.input}
    return names.union(*(_reads(a.g) for node in graph.node for a in node.attribute if a.HasField("g")))


def _evaluate(model: ModelProto, nodes: list[NodeProto], wanted: set[str]) -> dict[str, npt.NDArray[Any]]:
    """Run `nodes`, which depend on initializers alone, and return the values that others use."""
    outputs = [o for node in nodes for o in node.output if o in wanted]
    if not outputs:
        return {}
    read = {name for node in nodes for name in node.input}
    initializers = [t for t in model.graph.initializer if t.name in read]
    infos = [helper.make_value_info(o, onnx.TypeProto()) for o in outputs]
    graph = helper.make_graph(nodes, "constants", [], infos, initializers)
    part = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=max(model.ir_version, 8))
    try:
        values = ReferenceEvaluator(part).run(outputs, {})
    except (ValueError, TypeError, IndexError, RuntimeError, NotImplementedError) as error:
        names = ", ".join(node.name for node in nodes[:4])
        raise UserError(f"constants do not compute: {error}", where=names, action="check these nodes") from error
    return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}
