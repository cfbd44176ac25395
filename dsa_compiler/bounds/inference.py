"""Shapes and element types of every value, by ONNX's own shape inference on a copy without the large weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, inliner, shape_inference

from dsa_compiler.bounds.folding import SMALL_ELEMENTS, Array, fold_small
from dsa_compiler.errors import UserError

_ROUNDS = 16  # of folding: each resolves the shapes that the next one's constants are computed from

# Operators that shape inference does not know -> (known operator with the same shape rule, operands to give it).
_STAND_INS = {
    "Affine": ("Identity", (0,)),
    "BiasGelu": ("Identity", (0,)),
    "DynamicQuantizeLSTM": ("LSTM", (0, 1, 2, 3, 4, 5, 6, 7)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "FastGelu": ("Identity", (0,)),
    "FusedConv": ("Conv", (0, 1, 2)),
    "FusedGemm": ("Gemm", (0, 1, 2)),
    "ImageScaler": ("Identity", (0,)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "QGemm": ("Gemm", (0, 3)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearLeakyRelu": ("Identity", (0,)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearSigmoid": ("Identity", (0,)),
    "QLinearSoftmax": ("Identity", (0,)),
    "QuickGelu": ("Identity", (0,)),
    "SkipLayerNormalization": ("Identity", (0,)),
    "SkipSimplifiedLayerNormalization": ("Identity", (0,)),
}
_KEPT_ATTRIBUTES = {
    "AveragePool": "auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides",
    "Conv": "auto_pad dilations group kernel_shape pads strides",
    "Gemm": "alpha beta transA transB",
    "LSTM": "activation_alpha activation_beta activations clip direction hidden_size input_forget",
}


def resolve(model: ModelProto) -> tuple[ModelProto, ModelProto, dict[str, Array]]:
    """(skeleton, inferred, known): the model without large weights, its copy with value shapes, small constants.

    Functions are inlined. Weights taken out are graph inputs in both copies; operators that shape inference
    does not know have stand-ins in the second. Raises UserError if shape inference refuses the model.
    """
    skeleton = _skeleton(model)
    if skeleton.functions:
        skeleton = inliner.inline_local_functions(skeleton)
    prepared = ModelProto()
    prepared.CopyFrom(skeleton)
    _replace_unknown(prepared.graph)
    prepared.graph.ClearField("value_info")  # declarations grow stale when inputs are bound
    for output in prepared.graph.output:
        output.type.tensor_type.ClearField("shape")
    known: dict[str, Array] = {}
    inferred = _infer(prepared)
    for _ in range(_ROUNDS):
        if not fold_small(prepared, inferred.graph, known):
            break
        inferred = _infer(prepared)
    return skeleton, inferred, known


def _infer(model: ModelProto) -> ModelProto:
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"shape inference refuses the model: {first}", where="bounds", action="check the model with onnx.checker"
        ) from error


def _skeleton(model: ModelProto) -> ModelProto:
    # Before IR version 4 an initialiser is an input too: inference would pass over one that is not.
    bare = ModelProto(ir_version=max(model.ir_version, 8), functions=model.functions)
    for opset in model.opset_import:
        bare.opset_import.append(helper.make_opsetid(_domain(opset.domain), opset.version))
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    initialised = {each.name for each in model.graph.initializer}
    graph.input.extend(each for each in model.graph.input if each.name not in initialised)
    for weight in model.graph.initializer:
        if math.prod(weight.dims) <= SMALL_ELEMENTS:
            graph.initializer.append(weight)
        else:
            graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    return bare


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def subgraphs(node: NodeProto) -> Iterable[GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _replace_unknown(graph: GraphProto) -> None:
    """Put a stand-in for each operator that shape inference does not know, in place."""
    for node in graph.node:
        for inner in subgraphs(node):
            _replace_unknown(inner)
        if node.domain == "ai.onnx":
            node.domain = ""
        if node.op_type in _STAND_INS:
            _stand_in(node, *_STAND_INS[node.op_type])
        elif node.op_type == "QLinearConcat":
            _stand_in(node, "Concat", tuple(range(2, len(node.input), 3)))
        elif node.op_type == "Crop":
            _crop_as_pad(node)


def _stand_in(node: NodeProto, op_type: str, operands: tuple[int, ...]) -> None:
    kept = _KEPT_ATTRIBUTES.get(op_type, "axis").split() if op_type not in ("Identity", "Add", "Mul", "MatMul") else []
    attributes = [each for each in node.attribute if each.name in kept]
    inputs = [node.input[index] for index in operands if index < len(node.input)]
    made = NodeProto(op_type=op_type, name=node.name, input=inputs, output=node.output, attribute=attributes)
    node.CopyFrom(made)


def _crop_as_pad(node: NodeProto) -> None:
    """Crop, an operator of the first opset: [left, top, right, bottom] pixels off an image, as negative padding."""
    left, top, right, bottom = next(list(each.ints) for each in node.attribute if each.name == "border")
    pads = helper.make_attribute("pads", [0, 0, -top, -left, 0, 0, -bottom, -right])
    node.CopyFrom(NodeProto(op_type="Pad", name=node.name, input=node.input, output=node.output, attribute=[pads]))


def opset(model: ModelProto) -> int:
    """The version of the default domain; the newest if the model does not say."""
    versions: list[int] = [each.version for each in model.opset_import if _domain(each.domain) == ""]
    return versions[0] if versions else int(onnx.defs.onnx_opset_version())
