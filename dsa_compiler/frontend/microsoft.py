"""Operators that ONNX Runtime adds to models it optimises, rewritten into ONNX's own.

So they have shapes, references and work that every later stage knows. What stays (quantised operators, attention with a
past) has a converter of its own or is refused by name. Definitions: ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.check import opset_of
from dsa_compiler.frontend.microsoft_attention import rewrite_attention, rewrite_multi_head_attention
from dsa_compiler.frontend.microsoft_body import Body, Rewriting, Shapes, Unknown

MICROSOFT: Final = "com.microsoft"
def expand_microsoft(model: ModelProto, infer: Callable[[ModelProto], Shapes]) -> None:
    """Rewrite, in place, every node that `REWRITINGS` knows; `infer` gives the shapes of values."""
    while any(_rewriting(node, model) for node in model.graph.node):
        if not _expand_once(model, infer(model)):
            return


def _rewriting(node: NodeProto, model: ModelProto) -> Rewriting | None:
    if node.domain == MICROSOFT:
        return REWRITINGS.get(node.op_type)
    if node.domain in ("", "ai.onnx") and (node.op_type != "LayerNormalization" or opset_of(model) < 17):
        return _OF_RUNTIME.get(node.op_type)  # fusions that ONNX Runtime puts into the default domain
    return None


def _expand_once(model: ModelProto, shapes: Shapes) -> bool:
    """Rewrite what the shapes known so far allow; whether there was anything."""
    graph, changed = model.graph, False
    nodes: list[NodeProto] = []
    for node in graph.node:
        rewriting = _rewriting(node, model)
        body = Body(node, graph, shapes, opset_of(model))
        try:
            if rewriting is None:
                raise Unknown
            rewriting(body)
        except Unknown:
            nodes.append(node)
            continue
        nodes.extend(body.nodes)
        changed = True
    copies = [_copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return changed


def _copied(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _dtype(body: Body, index: int) -> Any:
    """Return the float type of a constant input, float32 for a computed one."""
    try:
        return body.value(index).dtype
    except UserError:
        return np.float32


def _gelu(body: Body, x: str, kind: Any = np.float32) -> str:
    """x / 2 * (1 + erf(x / sqrt(2)))."""
    if body.opset >= 20:
        return body.emit("Gelu", x)
    one = body.emit("Erf", body.emit("Div", x, body.constant(math.sqrt(2), kind)))
    one = body.emit("Mul", x, body.emit("Add", one, body.constant(1, kind)))
    return body.emit("Mul", one, body.constant(0.5, kind))


def _fast_gelu(body: Body, x: str, kind: Any) -> str:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    if body.opset >= 20:
        return body.emit("Gelu", x, approximate="tanh")
    cube = body.emit("Mul", body.emit("Mul", body.emit("Mul", x, x), x), body.constant(0.044715, kind))
    inner = body.emit("Mul", body.emit("Add", x, cube), body.constant(math.sqrt(2 / math.pi), kind))
    outer = body.emit("Add", body.emit("Tanh", inner), body.constant(1, kind))
    return body.emit("Mul", body.emit("Mul", x, body.constant(0.5, kind)), outer)


def _bias_gelu(body: Body) -> None:
    body.returns(_gelu(body, body.emit("Add", body.input(0), body.input(1)), _dtype(body, 1)))


def _fast_gelu_node(body: Body) -> None:
    x = body.emit("Add", body.input(0), body.input(1)) if body.has(1) else body.input(0)
    body.returns(_fast_gelu(body, x, _dtype(body, 1) if body.has(1) else np.float32))


def _quick_gelu(body: Body) -> None:
    """x * sigmoid(alpha x)."""
    scaled = body.emit("Mul", body.input(0), body.constant(body.attrs.get("alpha", 1.702), np.float32))
    body.returns(body.emit("Mul", body.input(0), body.emit("Sigmoid", scaled)))


def _activated(body: Body, x: str, name: str, parameters: Sequence[float]) -> str:
    """Return `x` after the activation that a fused operator names."""
    if not name:
        return x
    if name in ("Relu", "Sigmoid", "Tanh"):
        return body.emit(name, x)
    if name == "LeakyRelu":
        return body.emit(name, x, alpha=parameters[0] if parameters else 0.01)
    if name == "HardSigmoid":
        alpha, beta = parameters if len(parameters) == 2 else (0.2, 0.5)
        return body.emit(name, x, alpha=alpha, beta=beta)
    if name == "Clip" and len(parameters) == 2:
        low, high = (body.constant(v, np.float32) for v in parameters)
        return body.emit("Min", body.emit("Max", x, low), high)
    raise body.error(f"activation {name!r}")


def _text(body: Body, name: str) -> str:
    value = body.attrs.get(name, b"")
    return value.decode() if isinstance(value, bytes) else str(value)


def _fused_conv(body: Body) -> None:
    """A convolution, an addend of its shape, an activation."""
    taken = ("activation", "activation_params")
    attrs = {k: v for k, v in body.attrs.items() if k not in taken}
    y = body.emit("Conv", *(body.input(i) for i in range(3) if body.has(i)), **attrs)
    y = body.emit("Add", y, body.input(3)) if body.has(3) else y
    body.returns(_activated(body, y, _text(body, "activation"), body.attrs.get("activation_params", [])))


def _fused_gemm(body: Body) -> None:
    attrs = {k: v for k, v in body.attrs.items() if not k.startswith("activation")}
    y = body.emit("Gemm", *(body.input(i) for i in range(3) if body.has(i)), **attrs)
    names = [n for n in ("activation_alpha", "activation_beta") if n in body.attrs]
    body.returns(_activated(body, y, _text(body, "activation"), [body.attrs[n] for n in names]))


def _fused_matmul(body: Body) -> None:
    """alpha * A B, the last two axes of either exchanged before."""
    if body.attrs.get("transBatchA") or body.attrs.get("transBatchB"):
        raise body.error("transposed batches")
    sides = []
    for i, name in enumerate(("transA", "transB")):
        side = body.input(i)
        if body.attrs.get(name):
            rank = len(body.shape(i))
            side = body.emit("Transpose", side, perm=[*range(rank - 2), rank - 1, rank - 2]) if rank > 1 else side
        sides.append(side)
    y = body.emit("MatMul", *sides)
    alpha = float(body.attrs.get("alpha", 1.0))
    body.returns(y if alpha == 1.0 else body.emit("Mul", y, body.constant(alpha, _dtype(body, 1))))


def _normalized(body: Body, x: str, scale: str, shift: str, axes: list[int], *, centered: bool = True) -> str:
    """(x - mean) / sqrt(mean of squares + epsilon) * scale + shift; without the mean if not `centered`."""
    epsilon = body.constant(body.attrs.get("epsilon", 1e-5 if centered else 1e-6), np.float32)
    if centered:
        x = body.emit("Sub", x, body.reduce_mean(x, axes))
    variance = body.reduce_mean(body.emit("Mul", x, x), axes)
    y = body.emit("Div", x, body.emit("Sqrt", body.emit("Add", variance, epsilon)))
    y = body.emit("Mul", y, scale)
    return body.emit("Add", y, shift) if shift else y


def _layer_norm(body: Body, x: str, scale: str, shift: str) -> str:
    """A layer normalisation of the last axis."""
    if body.opset < 17:
        return _normalized(body, x, scale, shift, [-1])
    parts = [x, scale, shift] if shift else [x, scale]
    return body.emit("LayerNormalization", *parts, axis=-1, epsilon=body.attrs.get("epsilon", 1e-5))


def _old_layer_norm(centered: bool) -> Rewriting:
    """LayerNormalization before operator set 17, and without a mean (SimplifiedLayerNormalization)."""

    def rewrite(body: Body) -> None:
        if body.wants(1) or body.wants(2):
            raise body.error("the mean and deviation as results")
        rank = len(body.shape(0))
        axes = list(range(int(body.attrs.get("axis", -1)) % rank, rank))
        shift = body.input(2) if body.has(2) else ""
        body.returns(_normalized(body, body.input(0), body.input(1), shift, axes, centered=centered))

    return rewrite


def _skip_layer_norm(body: Body) -> None:
    """The normalised sum of two values and a bias; the sum is the fourth result."""
    total = body.emit("Add", body.input(0), body.input(1))
    total = body.emit("Add", total, body.input(4)) if body.has(4) else total
    shift = body.input(3) if body.has(3) else ""
    body.returns(_layer_norm(body, total, body.input(2), shift), "", "", total)


def _skip_simplified_layer_norm(body: Body) -> None:
    total = body.emit("Add", body.input(0), body.input(1))
    total = body.emit("Add", total, body.input(3)) if body.has(3) else total
    body.returns(_normalized(body, total, body.input(2), "", [-1], centered=False), "", "", total)


def _embed_layer_norm(body: Body) -> None:
    """The normalised sum of the embeddings of words, places and segments; the number of words in the mask."""
    length = body.shape(0)[1]
    words = body.emit("Gather", body.input(2), body.input(0))
    if body.has(8):
        places = body.emit("Gather", body.input(3), body.input(8))
    else:
        places = body.emit("Gather", body.input(3), body.constant(np.arange(length)[None], np.int64))
    total = body.emit("Add", words, places)
    if body.has(1) and body.has(4):
        total = body.emit("Add", total, body.emit("Gather", body.input(4), body.input(1)))
    counts = ""
    if body.wants(1):
        counts = _mask_counts(body)
    body.returns(_layer_norm(body, total, body.input(5), body.input(6)), counts, total)


def _mask_counts(body: Body) -> str:
    """The number of words that the mask keeps in each sequence, int32 [batch]."""
    if not body.has(7):
        return body.constant(np.zeros(body.shape(0)[0]), np.int32)
    real = body.emit("Cast", body.input(7), to=1)
    if body.opset >= 13:
        total = body.emit("ReduceSum", real, body.constant([1], np.int64), keepdims=0)
    else:
        total = body.emit("ReduceSum", real, axes=[1], keepdims=0)
    return body.emit("Cast", total, to=6)


def _matmul_nbits(body: Body) -> None:
    """A product with constant weights of few bits, in blocks along the depth that have a scale each."""
    if body.has(4):
        raise body.error("weights in another order (g_idx)")
    k, n, bits, block = (int(body.attrs[name]) for name in ("K", "N", "bits", "block_size"))
    blocks = -(-k // block)
    scales = body.value(2).reshape(n, blocks, 1)
    zero: npt.NDArray[Any] = np.full((n, blocks, 1), 1 << bits - 1, np.float32)
    if body.has(3):
        given = body.value(3)
        packed = given.dtype == np.uint8
        zero = (unpacked(given.reshape(n, -1), bits)[:, :blocks] if packed else given).reshape(n, blocks, 1)
    weights = unpacked(body.value(1).reshape(n, -1), bits)[:, : blocks * block].reshape(n, blocks, block)
    real = (weights.astype(np.float32) - zero.astype(np.float32)) * scales.astype(np.float32)
    matrix = np.ascontiguousarray(real.reshape(n, blocks * block)[:, :k].T).astype(scales.dtype)
    y = body.emit("MatMul", body.input(0), body.constant(matrix))
    body.returns(body.emit("Add", y, body.input(5)) if body.has(5) else y)


def unpacked(data: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """Return the numbers of `bits` bits in rows of bytes, the lowest bits first."""
    pieces = [(data >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(pieces, -1).reshape(len(data), -1).astype(np.uint8)


REWRITINGS: Final[Mapping[str, Rewriting]] = {
    "Attention": rewrite_attention, "BiasGelu": _bias_gelu, "EmbedLayerNormalization": _embed_layer_norm,
    "FastGelu": _fast_gelu_node, "FusedConv": _fused_conv, "FusedGemm": _fused_gemm, "FusedMatMul": _fused_matmul,
    "Gelu": lambda body: body.returns(_gelu(body, body.input(0))), "MatMulNBits": _matmul_nbits,
    "MultiHeadAttention": rewrite_multi_head_attention, "QuickGelu": _quick_gelu,
    "SimplifiedLayerNormalization": _old_layer_norm(centered=False),
    "SkipLayerNormalization": _skip_layer_norm, "SkipSimplifiedLayerNormalization": _skip_simplified_layer_norm,
    "TransposeMatMul": _fused_matmul,
}  # fmt: skip
_OF_RUNTIME: Final[Mapping[str, Rewriting]] = {
    "LayerNormalization": _old_layer_norm(centered=True),
    "SimplifiedLayerNormalization": _old_layer_norm(centered=False),
}
