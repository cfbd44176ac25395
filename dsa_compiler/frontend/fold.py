"""Constant folding of an ONNX graph with `onnx.reference`, shape arithmetic included."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.check import describe, elements
from dsa_compiler.frontend.shapes import static_shape

LARGE = 1024  # elements: tensors above it play no part in shape inference
MOST_FOLLOWED = 2**20  # elements: ONNX's inference follows each element of a vector as if it were an extent
MOST_FOLDED = 2**26
"""A node whose result has more elements is not folded: the constant would outweigh the work."""

ROUNDS = 32
REFERENCE_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, BufferError, ImportError, LookupError, MemoryError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What `onnx.reference` raises for operands that do not fit; it has no error of its own."""

_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
                     "Multinomial"})  # fmt: skip
_GROWING = frozenset({"CenterCropPad", "ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize",
                      "Tile", "Upsample"})  # fmt: skip
_KEPT = frozenset({"DequantizeLinear"})  # its operand says that products may be in integers


def fold_constants(model: ModelProto) -> None:
    """Replace, in place, every node whose inputs are constants by its value, until nothing changes.

    A `Shape` or `Size` of a value of known shape is a constant.
    """
    for _ in range(ROUNDS):
        shapes = infer_shapes(model)
        changed = _resolve_shapes(model, shapes)
        changed |= _fold_round(model, shapes)
        if not changed:
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
    graph.output.extend(helper.make_value_info(o.name, onnx.TypeProto()) for o in model.graph.output)
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) <= LARGE:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    try:
        values = [*graph.input]
        if any(node.op_type in _GROWING for node in graph.node):
            values += onnx.shape_inference.infer_shapes(skeleton).graph.value_info
        vectors = [static_shape(value) or () for value in values]
        follow = all(shape[0] <= MOST_FOLLOWED for shape in vectors if len(shape) == 1)
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=follow, strict_mode=strict).graph
    except (onnx.shape_inference.InferenceError, *REFERENCE_ERRORS) as error:
        raise _inference_error(str(error)) from error
    declared = [o for o, found in zip(model.graph.output, inferred.output, strict=True) if not found.HasField("type")]
    return [*inferred.value_info, *(o for o in inferred.output if o.HasField("type")), *declared, *inferred.input]


def _inference_error(text: str) -> UserError:
    """Return an error from the text that ONNX's inference ends with, which names a node in parentheses."""
    named = re.search(r"\(op_type:([^,)]*)(?:, node name: ([^)]*))?\): *(?:\[\w+\] *)?(.*)", text)
    where = f"{named[1]} {named[2] or ''}".strip() if named else "model"
    reason = named[3] if named else next(iter(text.strip().splitlines()[-1:]), "unknown")
    return UserError(f"shapes do not fit: {reason}", where=where, action="check the shapes given, and the model")


def _resolve_shapes(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Replace `Shape` and `Size` of values of known shape."""
    kept: list[NodeProto] = []
    for node in model.graph.node:
        shape = shapes.get(node.input[0]) if node.op_type in ("Shape", "Size") and node.domain == "" else None
        if shape is None:
            kept.append(node)
            continue
        attrs = {a.name: int(a.i) for a in node.attribute}
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


def _foldable(node: NodeProto, known: set[str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    sizes = [elements(shapes[o]) if o in shapes else -1 for o in node.output if o]
    if max(sizes, default=0) > MOST_FOLDED or (node.op_type in _GROWING and min(sizes, default=0) < 0):
        return False
    if node.op_type in _RANDOM or node.op_type in _KEPT or node.domain not in ("", "ai.onnx"):
        return False
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        return False
    return all(not name or name in known for name in node.input)


def _fold_round(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
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
        elif _foldable(node, known, shapes):
            folded.append(node)
            known.update(o for o in node.output if o)
        else:
            kept.append(node)
    if len(kept) == len(graph.node):
        return False
    wanted = {name for node in kept for name in node.input} | {o.name for o in graph.output}
    wanted |= {name for node in kept for a in node.attribute if a.HasField("g") for name in _reads(a.g)}
    values, refused = _evaluate(model, folded, wanted)
    for name, value in values.items():
        _add_constant(graph, name, value)
    left = {o for node in [*kept, *refused] for o in node.output}
    nodes = [node for node in graph.node if any(o in left for o in node.output)]
    changed = len(nodes) != len(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    return changed


def _reads(graph: GraphProto) -> set[str]:
    names = {name for node in graph.node for name in node.input}
    return names.union(*(_reads(a.g) for node in graph.node for a in node.attribute if a.HasField("g")))


def _evaluate(
    model: ModelProto, nodes: Sequence[NodeProto], wanted: set[str]
) -> tuple[dict[str, npt.NDArray[Any]], list[NodeProto]]:
    """Run `nodes`, which depend on initializers alone; return the values that others use, and nodes that do not run."""
    read = {name for node in nodes for name in node.input}
    known = [t for t in model.graph.initializer if t.name in read]
    try:
        return _run(model, nodes, known, wanted), []
    except REFERENCE_ERRORS:  # one of them: find it
        return _evaluate_each(model, nodes, known, wanted)


def _evaluate_each(
    model: ModelProto, nodes: Sequence[NodeProto], known: list[TensorProto], wanted: set[str]
) -> tuple[dict[str, npt.NDArray[Any]], list[NodeProto]]:
    """Run nodes one after another. Those that the reference cannot run stay; raises `UserError` for one that fails."""
    values: dict[str, npt.NDArray[Any]] = {}
    refused: list[NodeProto] = []
    missing: set[str] = set()
    for node in nodes:
        if missing & set(node.input):
            refused.append(node)
        else:
            try:
                found = _run(model, [node], known, set(node.output))
            except (NotImplementedError, AttributeError, ImportError):
                refused.append(node)
            except REFERENCE_ERRORS as error:
                raise UserError(
                    f"constants do not compute: {error}", where=describe(node), action="check the node and its inputs"
                ) from error
            else:
                values |= found
                known = [*known, *(numpy_helper.from_array(np.asarray(v), n) for n, v in found.items())]
                continue
        missing |= set(node.output)
    needed = wanted | {name for node in refused for name in node.input}
    return {name: value for name, value in values.items() if name in needed}, refused


def _run(
    model: ModelProto, nodes: Sequence[NodeProto], known: Sequence[TensorProto], wanted: set[str]
) -> dict[str, npt.NDArray[Any]]:
    """Return the values of `nodes` that are wanted, by `onnx.reference`."""
    outputs = [o for node in nodes for o in node.output if o and o in wanted]
    if not outputs:
        return {}
    infos = [helper.make_value_info(o, onnx.TypeProto()) for o in outputs]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(nodes, "constants", [], infos, [t for t in known if t.name in read])
    part = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=max(model.ir_version, 8))
    with np.errstate(all="ignore"):
        values = ReferenceEvaluator(part).run(outputs, {})
    if not all(isinstance(value, np.ndarray | np.generic) for value in values):
        raise NotImplementedError("a result is no tensor")
    return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}
