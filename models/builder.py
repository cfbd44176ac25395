"""A small graph builder for the networks of this package: ONNX nodes, tracked shapes, seeded weights.

Weights keep activations near unit variance through any depth, without calibration data: dense filters
have zero mean (so the positive mean that a ReLU leaves behind does not pile up and drown what depends on
the input), and their scale is set by the variance that the preceding activation lets through.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

OPSET = 17
IR_VERSION = 8

# Variance of f(x) for x of the standard normal distribution: what is left after the activation in front of a layer.
INPUT_VARIANCE = {"none": 1.0, "relu": 0.341, "relu6": 0.341, "gelu": 0.340, "silu": 0.313, "glu": 0.293}
RELU_MEAN = 0.399  # mean of relu(x) for x of the standard normal distribution

FloatArray = npt.NDArray[np.float32]


class Tensor(NamedTuple):
    """A value of the graph: its name and its static shape."""

    name: str
    shape: tuple[int, ...]


class Window(NamedTuple):
    """A square convolution or pooling window: kernel, stride and symmetric padding, in pixels."""

    kernel: int
    stride: int = 1
    pad: int = 0

    def extent(self, size: int) -> int:
        """Number of window positions along an axis of `size` pixels."""
        return (size + 2 * self.pad - self.kernel) // self.stride + 1

    def attributes(self, rank: int = 2) -> dict[str, list[int]]:
        """The ONNX attributes of this window over `rank` spatial axes."""
        return {
            "kernel_shape": [self.kernel] * rank,
            "strides": [self.stride] * rank,
            "pads": [self.pad] * (2 * rank),
        }


class GraphBuilder:
    """Appends nodes and weights to one ONNX graph; every method returns the value it made.

    `fold_batch_norm` writes a batch norm that follows a convolution into its weights and bias;
    otherwise the graph has the BatchNormalization node. Both graphs compute the same function.
    """

    def __init__(self, name: str, seed: int = 0, fold_batch_norm: bool = True) -> None:
        self.model = ModelProto(ir_version=IR_VERSION, producer_name="dsac-models")
        self.model.opset_import.append(helper.make_opsetid("", OPSET))
        self.model.graph.name = name
        self.fold_batch_norm = fold_batch_norm
        self._random = np.random.Generator(np.random.SFC64(seed))
        self._counts: dict[str, int] = {}

    # Names, inputs and outputs

    def unique(self, stem: str) -> str:
        """A name that no other node or weight of this graph has: `stem_0`, `stem_1`, ..."""
        number = self._counts.get(stem, 0)
        self._counts[stem] = number + 1
        return f"{stem}_{number}"

    def input(self, name: str, shape: tuple[int, ...], dtype: int = TensorProto.FLOAT) -> Tensor:
        """Declare a graph input."""
        self.model.graph.input.append(helper.make_tensor_value_info(name, dtype, shape))
        return Tensor(name, shape)

    def output(self, name: str, value: Tensor, dtype: int = TensorProto.FLOAT) -> ModelProto:
        """Give `value` the output name `name` and return the model, finished but for other outputs."""
        self.model.graph.node.append(helper.make_node("Identity", [value.name], [name], name=f"{name}_identity"))
        self.model.graph.output.append(helper.make_tensor_value_info(name, dtype, value.shape))
        return self.model

    def node(self, op: str, inputs: list[Tensor], shape: tuple[int, ...], **attributes: Any) -> Tensor:
        """Append one node with one output of the given shape."""
        name = self.unique(op)
        made = helper.make_node(op, [each.name for each in inputs], [f"{name}_out"], name=name, **attributes)
        self.model.graph.node.append(made)
        return Tensor(f"{name}_out", shape)

    def constant(self, stem: str, values: npt.NDArray[Any]) -> Tensor:
        """Add an initialiser with the given values and dtype."""
        stored = self.model.graph.initializer.add()
        stored.name = self.unique(stem)
        stored.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        stored.dims.extend(values.shape)
        stored.raw_data = values.tobytes()
        return Tensor(stored.name, values.shape)

    def scalar(self, value: float) -> Tensor:
        """Add a float32 scalar initialiser."""
        return self.constant("scalar", np.array(value, dtype=np.float32))

    # Weights

    def normal(self, shape: tuple[int, ...], deviation: float) -> FloatArray:
        """Normally distributed float32 values of zero mean."""
        values = self._random.standard_normal(shape, dtype=np.float32)
        values *= np.float32(deviation)
        return values

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> FloatArray:
        """Uniformly distributed float32 values."""
        values = self._random.random(shape, dtype=np.float32)
        values *= np.float32(high - low)
        values += np.float32(low)
        return values

    def filters(self, shape: tuple[int, ...], after: str) -> FloatArray:
        """Convolution filters [out, in / groups, *kernel] that give unit variance behind activation `after`.

        Filters of one input channel keep their mean: centring their few taps would remove smooth signals.
        """
        fan_in = math.prod(shape[1:])
        values = self.normal(shape, math.sqrt(1.0 / INPUT_VARIANCE[after] / fan_in))
        if shape[1] > 1:
            values -= values.mean(axis=tuple(range(1, len(shape))), keepdims=True)
        return values

    def _batch_norm_parameters(self, weight: FloatArray, after: str, scale: float) -> list[FloatArray]:
        """Scale, shift, mean and variance, each [channels], for what a convolution by `weight` gives."""
        channels = weight.shape[0]
        gain = self.uniform((channels,), 0.7 * scale, 1.3 * scale)
        input_mean = RELU_MEAN if after.startswith("relu") else 0.0
        mean = weight.reshape(channels, -1).sum(axis=1) * np.float32(input_mean) + self.normal((channels,), 0.05)
        return [gain, self.normal((channels,), 0.1 * scale), mean, self.uniform((channels,), 0.7, 1.3)]

    # Layers

    def convolution(
        self, x: Tensor, channels: int, window: Window, groups: int = 1, after: str = "relu", bias: bool = True
    ) -> Tensor:
        """A convolution over all spatial axes of x [N, C, *spatial], without batch norm."""
        rank = len(x.shape) - 2
        weight = self.filters((channels, x.shape[1] // groups, *[window.kernel] * rank), after)
        shift = self.normal((channels,), 0.1) if bias else None
        return self._convolve(x, weight, shift, window, groups)

    def conv_bn(
        self, x: Tensor, channels: int, window: Window, groups: int = 1, after: str = "relu", scale: float = 1.0
    ) -> Tensor:
        """A convolution of x [N, C, *spatial] and its batch norm, whose gains lie around `scale`."""
        rank = len(x.shape) - 2
        weight = self.filters((channels, x.shape[1] // groups, *[window.kernel] * rank), after)
        parameters = self._batch_norm_parameters(weight, after, scale)
        if not self.fold_batch_norm:
            return self._normalize(self._convolve(x, weight, None, window, groups), parameters)
        gain, shift, mean, variance = parameters
        factor = gain / np.sqrt(variance + np.float32(1e-5))
        weight *= factor.reshape(-1, *[1] * (rank + 1))
        return self._convolve(x, weight, shift - mean * factor, window, groups)

    def batch_norm(self, x: Tensor) -> Tensor:
        """A batch norm that nothing can be folded into: x [N, C, ...] is not made by one convolution."""
        channels = (x.shape[1],)
        gain, variance = self.uniform(channels, 0.7, 1.3), self.uniform(channels, 0.7, 1.3)
        return self._normalize(x, [gain, self.normal(channels, 0.1), self.normal(channels, 0.05), variance])

    def _convolve(self, x: Tensor, weight: FloatArray, bias: FloatArray | None, window: Window, groups: int) -> Tensor:
        rank = len(x.shape) - 2
        operands = [x, self.constant("weight", weight)]
        if bias is not None:
            operands.append(self.constant("bias", bias))
        shape = (x.shape[0], weight.shape[0], *(window.extent(size) for size in x.shape[2:]))
        return self.node("Conv", operands, shape, group=groups, **window.attributes(rank))

    def _normalize(self, x: Tensor, parameters: list[FloatArray]) -> Tensor:
        stems = ("bn_scale", "bn_shift", "bn_mean", "bn_variance")
        stored = [self.constant(stem, values) for stem, values in zip(stems, parameters, strict=True)]
        return self.node("BatchNormalization", [x, *stored], x.shape, epsilon=1e-5)

    def linear(self, x: Tensor, width: int, after: str = "none", scale: float = 1.0) -> Tensor:
        """x [..., in] times a weight [in, width] plus a bias, as MatMul and Add."""
        weight = self.filters((width, x.shape[-1]), after).T * np.float32(scale)
        shape = (*x.shape[:-1], width)
        product = self.node("MatMul", [x, self.constant("weight", weight)], shape)
        return self.add(product, self.constant("bias", self.normal((width,), 0.1 * scale)))

    def gemm(self, x: Tensor, width: int, after: str = "relu", scale: float = 1.0) -> Tensor:
        """x [rows, in] times a weight [width, in] transposed plus a bias, as Gemm."""
        weight = self.filters((width, x.shape[1]), after) * np.float32(scale)
        operands = [x, self.constant("weight", weight), self.constant("bias", self.normal((width,), 0.1))]
        return self.node("Gemm", operands, (x.shape[0], width), transB=1)

    def layer_norm(self, x: Tensor) -> Tensor:
        """Layer normalisation over the last axis, with scales near one and small shifts."""
        width = (x.shape[-1],)
        scale = self.constant("ln_scale", self.uniform(width, 0.8, 1.2))
        shift = self.constant("ln_shift", self.normal(width, 0.1))
        return self.node("LayerNormalization", [x, scale, shift], x.shape, axis=-1, epsilon=1e-5)

    # Activations and arithmetic

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return self.node("Relu", [x], x.shape)

    def unary(self, op: str, x: Tensor, **attributes: Any) -> Tensor:
        """An elementwise operator of one operand."""
        return self.node(op, [x], x.shape, **attributes)

    def binary(self, op: str, a: Tensor, b: Tensor) -> Tensor:
        """An elementwise operator of two operands, with broadcasting."""
        return self.node(op, [a, b], tuple(np.broadcast_shapes(a.shape, b.shape)))

    def where(self, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """a where the condition holds, else b, with broadcasting."""
        return self.node("Where", [condition, a, b], tuple(np.broadcast_shapes(condition.shape, a.shape, b.shape)))

    def reduce(self, op: str, x: Tensor, axis: int) -> Tensor:
        """A reduction along one non-negative axis, which stays with extent 1 (ReduceSum takes its axes as an input)."""
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        if op == "ReduceSum":
            return self.node(op, [x, self.indices([axis])], shape, keepdims=1)
        return self.node(op, [x], shape, axes=[axis], keepdims=1)

    def place_of(self, op: str, x: Tensor, axis: int) -> Tensor:
        """ArgMax or ArgMin along a non-negative axis, which is dropped: int64."""
        return self.node(op, [x], (*x.shape[:axis], *x.shape[axis + 1 :]), axis=axis, keepdims=0)

    def slice(self, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
        """x from `start` to before `stop` along a non-negative axis."""
        bounds = [self.indices([start]), self.indices([stop]), self.indices([axis])]
        return self.node("Slice", [x, *bounds], (*x.shape[:axis], stop - start, *x.shape[axis + 1 :]))

    def upsample(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] with every pixel twice in both directions, as Resize writes it."""
        absent, scales = Tensor("", ()), self.constant("scales", np.array([1, 1, 2, 2], np.float32))
        shape = (*x.shape[:2], *(2 * size for size in x.shape[2:]))
        return self.node("Resize", [x, absent, scales], shape, mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip

    def relu6(self, x: Tensor) -> Tensor:
        """x clipped to [0, 6]."""
        return self.node("Clip", [x, self.scalar(0.0), self.scalar(6.0)], x.shape)

    def sigmoid(self, x: Tensor) -> Tensor:
        """The logistic function."""
        return self.node("Sigmoid", [x], x.shape)

    def silu(self, x: Tensor) -> Tensor:
        """x * sigmoid(x), decomposed as exporters write it."""
        return self.mul(x, self.sigmoid(x))

    def gelu(self, x: Tensor) -> Tensor:
        """x * (1 + erf(x / sqrt 2)) / 2, decomposed as exporters write it."""
        scaled = self.node("Div", [x, self.scalar(math.sqrt(2.0))], x.shape)
        shifted = self.add(self.node("Erf", [scaled], x.shape), self.scalar(1.0))
        return self.mul(self.mul(x, shifted), self.scalar(0.5))

    def gelu_tanh(self, x: Tensor) -> Tensor:
        """x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2, decomposed as exporters write it."""
        cube = self.binary("Pow", x, self.scalar(3.0))
        inner = self.add(x, self.mul(cube, self.scalar(0.044715)))
        bent = self.unary("Tanh", self.mul(inner, self.scalar(math.sqrt(2.0 / math.pi))))
        return self.mul(self.mul(x, self.scalar(0.5)), self.add(bent, self.scalar(1.0)))

    def softmax(self, x: Tensor) -> Tensor:
        """Softmax over the last axis."""
        return self.node("Softmax", [x], x.shape, axis=-1)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b with broadcasting."""
        return self.node("Add", [a, b], tuple(np.broadcast_shapes(a.shape, b.shape)))

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """a * b with broadcasting."""
        return self.node("Mul", [a, b], tuple(np.broadcast_shapes(a.shape, b.shape)))

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """The batched product of a [..., m, k] and b [..., k, n], equal leading axes."""
        return self.node("MatMul", [a, b], (*a.shape[:-1], b.shape[-1]))

    # Pooling and data movement

    def max_pool(self, x: Tensor, window: Window) -> Tensor:
        """Maximum over square windows of x [N, C, H, W]."""
        shape = (*x.shape[:2], *(window.extent(size) for size in x.shape[2:]))
        return self.node("MaxPool", [x], shape, **window.attributes())

    def average_pool(self, x: Tensor, window: Window) -> Tensor:
        """Mean over square windows of x [N, C, H, W]."""
        shape = (*x.shape[:2], *(window.extent(size) for size in x.shape[2:]))
        return self.node("AveragePool", [x], shape, **window.attributes())

    def global_pool(self, x: Tensor) -> Tensor:
        """Mean over all pixels of x [N, C, H, W], as [N, C]."""
        pooled = self.node("GlobalAveragePool", [x], (*x.shape[:2], 1, 1))
        return self.node("Flatten", [pooled], x.shape[:2], axis=1)

    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        """The parts one after another along a non-negative axis."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.node("Concat", parts, tuple(shape), axis=axis)

    def halves(self, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """The two equal halves of x along a non-negative axis."""
        name = self.unique("Split")
        outputs = [f"{name}_first", f"{name}_second"]
        self.model.graph.node.append(helper.make_node("Split", [x.name], outputs, name=name, axis=axis))
        shape = (*x.shape[:axis], x.shape[axis] // 2, *x.shape[axis + 1 :])
        return Tensor(outputs[0], shape), Tensor(outputs[1], shape)

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The elements of x in the same order, in another static shape."""
        return self.node("Reshape", [x, self.constant("shape", np.array(shape, dtype=np.int64))], shape)

    def transpose(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        """The axes of x in another order."""
        return self.node("Transpose", [x], tuple(x.shape[axis] for axis in order), perm=list(order))

    def gather(self, x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
        """The slices of x along `axis` that `index` names."""
        return self.node("Gather", [x, index], (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]), axis=axis)

    def indices(self, values: npt.ArrayLike) -> Tensor:
        """An int64 initialiser of indices."""
        return self.constant("indices", np.asarray(values, dtype=np.int64))
