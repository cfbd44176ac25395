"""Matrix problems with an explicit tiling: operands, NumPy's answer, every way to run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from dsa_compiler.isa.dtypes import item_bytes, numpy_dtype
from dsa_compiler.lower.matrix_kernel import MatrixKernel
from dsa_compiler.lower.matrix_problem import Extra, MatrixOperands, MatrixProblem, MatrixTiling
from dsa_compiler.lower.tir import buffer
from dsa_compiler.lower.weights import chunk_bias, chunk_weights
from dsa_compiler.target import Target
from tests.lower.kernels import Run, Stored, check
from tests.lower.networks import sample

PLAIN = MatrixOperands(None, None, None, None, None, None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Form:
    """How the operands lie and what the epilogue does.

    `constant_b`: weights laid out beforehand; else b is [batches, k, n], [batches, n, k] if `b_transposed`.
    `residual`: an operand added after the product: "full", "row" (by output channel), "column" (by pixel), "".
    `zero_point`: the result is requantised by a scale for each channel and has this zero point; integers only.
    """

    constant_b: bool = True
    bias: bool = False
    a_transposed: bool = False
    b_transposed: bool = False
    residual: str = ""
    relu: bool = False
    out_dtype: str = ""
    zero_point: int | None = None


def convolve(x: np.ndarray, w: np.ndarray, p: MatrixProblem) -> np.ndarray:
    """x [images, height, width, batches * c] by w [batches, kh, kw, c, n], exact for integers, else in float32."""
    channels = w.shape[3]
    whole = p.accumulator == "int32"
    kind = np.int64 if whole else np.float32
    x, w = x.astype(kind), w.astype(kind) - (p.zero_b if whole else 0)
    shape = (p.images, p.rows_in(p.out_height) + p.height, p.columns_in(p.out_width) + p.width, x.shape[-1])
    padded = np.full(shape, p.pad_value, kind)
    padded[:, p.pad[0] : p.pad[0] + p.height, p.pad[1] : p.pad[1] + p.width] = x
    result = np.zeros((p.images, p.out_height, p.out_width, p.batches * p.out_channels), kind)
    for b in range(p.batches):
        for kh in range(p.kernel[0]):
            for kw in range(p.kernel[1]):
                y, c = kh * p.dilation[0], kw * p.dilation[1]
                rows = slice(y, y + (p.out_height - 1) * p.stride[0] + 1, p.stride[0])
                columns = slice(c, c + (p.out_width - 1) * p.stride[1] + 1, p.stride[1])
                window = padded[:, rows, columns, b * channels : (b + 1) * channels]
                result[..., b * p.out_channels : (b + 1) * p.out_channels] += window @ w[b, kh, kw]
    return result


def any_integers(shape: Sequence[int], dtype: str, seed: int) -> np.ndarray:
    """Integers of the whole range of their dtype."""
    limits = np.iinfo(dtype)
    return sample(shape, dtype, seed, limits.min, limits.max)


def requantized(sums: np.ndarray, scale: np.ndarray, zero: int, dtype: str) -> np.ndarray:
    """Sums times a scale, rounded half to even, plus a zero point, saturated."""
    limits = np.iinfo(dtype)
    scaled = np.rint(sums.astype(np.float32) * scale.astype(np.float32)) + np.float32(zero)
    return np.clip(scaled, limits.min, limits.max).astype(dtype)


def check_matrix(p: MatrixProblem, t: MatrixTiling, target: Target, form: Form | None = None, **options: Any) -> Run:
    """Build the kernel of a convolution or product and compare every way to run it with NumPy."""
    form = form or Form()
    case = Case(p, t, target, form)
    return check(case.func(), target, case.stored, case.expected, **options)


class Case:
    """The operands of a problem and the answer; `func` is its kernel."""

    def __init__(self, p: MatrixProblem, t: MatrixTiling, target: Target, form: Form) -> None:
        self.p, self.t, self.target, self.form = p, t, target, form
        self.plan = MatrixKernel(p, t, PLAIN, target)
        self.stored: list[Stored] = []
        self.buffers: list[Any] = []
        self.channels = p.source_channels or p.channels
        self.scale = (p.channels * p.kernel[0] * p.kernel[1]) ** -0.5
        self.x = self._left()
        self.w = self._right()
        self.bias = self._bias() if form.bias else None
        self.extra = self._residual() if form.residual else None
        self.scales = self._scales() if form.zero_point is not None else None
        self.out_dtype = form.out_dtype or p.dtype
        shape = (p.images, p.out_height, p.out_width, p.batches * p.out_channels)
        self.out = self._parameter("out", shape, self.out_dtype)
        self.expected = self._answer().astype(numpy_dtype(self.out_dtype))

    def _parameter(
        self, name: str, shape: Sequence[int], dtype: str, values: np.ndarray | None = None, exact: bool = False
    ) -> Any:
        pitch = shape[-1] if exact else self.target.pitch(shape[-1], item_bytes(dtype))
        padded = (*shape[:-1], pitch)
        made = buffer(name, padded, dtype)
        self.stored.append(Stored(padded, dtype, values, pitch))
        self.buffers.append(made)
        return made

    def _left(self) -> np.ndarray:
        p = self.p
        if not self.form.a_transposed:
            shape = (p.images, p.height, p.width, p.batches * self.channels)
            values = self._sample(shape)
            self.a = self._parameter("a", shape, p.dtype, values)
            return values
        values = self._sample((p.batches, p.channels, p.height))
        self.a = self._parameter("a", values.shape, p.dtype, values)
        return values.transpose(2, 0, 1).reshape(1, p.height, 1, p.batches * p.channels)

    def _sample(self, shape: tuple[int, ...]) -> np.ndarray:
        dtype = self.p.dtype
        return any_integers(shape, dtype, 1) if self.p.accumulator == "int32" else sample(shape, dtype, 1)

    def _right(self) -> np.ndarray:
        p, form = self.p, self.form
        shape = (p.batches, *p.kernel, p.channels, p.out_channels)
        if p.accumulator == "int32":
            values = any_integers(shape, p.b_dtype, 2)
        else:
            values = (sample(shape, p.dtype, 2).astype(np.float32) * self.scale).astype(numpy_dtype(p.dtype))
        values[:, :, :, self.channels :] = p.zero_b
        if form.constant_b:
            chunks = chunk_weights(values, self.plan)
            self.b = self._parameter("b", chunks.shape, p.b_dtype, chunks, exact=True)
            return values[:, :, :, : self.channels]
        plain = values[:, 0, 0]
        if form.b_transposed:
            plain = np.ascontiguousarray(plain.transpose(0, 2, 1))
        self.b = self._parameter("b", plain.shape, p.b_dtype, plain)
        return values

    def _bias(self) -> np.ndarray:
        values = sample((self.p.batches, self.p.out_channels), self.p.accumulator, 3, -9999, 9999)
        values = values / np.float32(5000) if self.p.accumulator == "float32" else values
        chunks = chunk_bias(values, self.plan)
        self.bias1 = self._parameter("bias", chunks.shape, self.p.accumulator, chunks, exact=True)
        return values.reshape(-1)

    def _residual(self) -> np.ndarray:
        p = self.p
        full = (p.images, p.out_height, p.out_width, p.batches * p.out_channels)
        shape = {"full": full, "row": (1, 1, 1, full[3]), "column": (*full[:3], 1)}[self.form.residual]
        values = sample(shape, p.dtype, 4)
        self.extra_buffer = self._parameter("extra", shape, p.dtype, values)
        return values

    def _scales(self) -> np.ndarray:
        depth = self.p.channels * self.p.kernel[0] * self.p.kernel[1]
        shape = (1, 1, 1, self.p.batches * self.p.out_channels)
        values = sample(shape, "float32", 5, 0.5, 1.0) / np.float32(64 * depth**0.5)
        self.scale_buffer = self._parameter("scale", shape, "float32", values)
        return values

    def _answer(self) -> np.ndarray:
        result = convolve(self.x, self.w, self.p)
        if self.bias is not None:
            result = result + self.bias
        if self.scales is not None:
            return requantized(result, self.scales, self.form.zero_point or 0, self.out_dtype)
        if self.extra is not None:
            result = result + self.extra.astype(np.float32)
        return np.maximum(result, 0) if self.form.relu else result

    def func(self) -> Any:
        p, form, channels = self.p, self.form, self.channels
        a_index: Callable[..., list[Any]] = lambda b, i, y, x, c: [i, y, x, b * channels + c]  # noqa: E731
        if form.a_transposed:
            a_index = lambda b, i, y, x, c: [b, c, y]  # noqa: E731
        b_index: Callable[..., list[Any]] | None = None
        if not form.constant_b:
            b_index = (lambda b, k, n: [b, n, k]) if form.b_transposed else (lambda b, k, n: [b, k, n])
        operands = MatrixOperands(
            self.a,
            a_index,
            self.b,
            b_index,
            self.out,
            lambda q: [q.image, q.y, q.x, q.b * p.out_channels + q.n],
            self.bias1 if form.bias else None,
            form.a_transposed,
            form.b_transposed,
            self._extras(),
            self._epilogue(),
        )
        return MatrixKernel(p, self.t, operands, self.target).build("kernel", self.buffers)

    def _extras(self) -> tuple[Extra, ...]:
        n = self.p.out_channels
        index = {
            "full": lambda q: [q.image, q.y, q.x, q.b * n + q.n],
            "row": lambda q: [0, 0, 0, q.b * n + q.n],
            "column": lambda q: [q.image, q.y, q.x, 0],
        }
        varies = {"full": "image y x b n", "row": "b n", "column": "image y x"}
        kind = self.form.residual
        if self.scales is not None:
            return (Extra(self.scale_buffer, index["row"], frozenset({"b", "n"})),)
        if not kind:
            return ()
        return (Extra(self.extra_buffer, index[kind], frozenset(varies[kind].split())),)

    def _epilogue(self) -> Callable[..., Any] | None:
        form = self.form
        if form.zero_point is not None:
            return self._requantized
        if not form.relu and not form.residual:
            return None

        def value(acc: Any, extras: Sequence[Any]) -> Any:
            result = (
                acc + tirx.Cast("float32", extras[0])
                if extras and self.p.dtype != "float32"
                else acc + extras[0]
                if extras
                else acc
            )
            return tirx.max(result, tirx.const(0.0, "float32")) if form.relu else result

        return value

    def _requantized(self, acc: Any, extras: Sequence[Any]) -> Any:
        """The epilogue as layers spell it: a cast, a product, and a saturating cast."""
        limits = np.iinfo(self.out_dtype)
        zero, low, high = (tirx.const(float(v), "float32") for v in (self.form.zero_point or 0, limits.min, limits.max))
        scaled = tirx.nearbyint(tirx.Cast("float32", acc) * extras[0])
        shifted = scaled + zero if self.form.zero_point else scaled
        return tirx.min(tirx.max(shifted, low), high)
