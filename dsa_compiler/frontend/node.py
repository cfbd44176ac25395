"""What a converter sees of an ONNX node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import ir, relax

from dsa_compiler.errors import UserError


@dataclass(frozen=True)
class Node:
    """An ONNX node whose inputs are Relax expressions; `emit` binds an expression under the node's name."""

    op: str
    name: str
    attrs: Mapping[str, Any]
    opset: int
    inputs: Sequence[Any]
    outputs: int
    emit: Callable[[Any], Any]

    def has(self, index: int) -> bool:
        """Whether optional input `index` is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> npt.NDArray[Any] | None:
        """Return input `index` if it is there and constant."""
        return constant(self.inputs[index]) if self.has(index) else None

    def ints(self, index: int) -> list[int] | None:
        """Return the integers of optional input `index`; they must be constant."""
        if not self.has(index):
            return None
        value = self.value(index)
        if value is None:
            raise self.error(f"input {index} must be a constant")
        return [int(v) for v in value.reshape(-1)]

    def ints_of(self, name: str, index: int) -> list[int] | None:
        """Return a list that is an attribute in old opsets and input `index` in new ones."""
        return [int(v) for v in self.attrs[name]] if name in self.attrs else self.ints(index)

    def text(self, name: str, default: str) -> str:
        """Return the string attribute `name`."""
        value = self.attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def error(self, problem: str) -> UserError:
        """Return an error about this node."""
        return UserError(problem, where=f"{self.op} {self.name}", action="see `dsac operators` for what is supported")


Converter = Callable[[Node], Any]


def constant(expr: Any) -> npt.NDArray[Any] | None:
    """Return the value of a constant expression, else None."""
    return expr.value.numpy() if isinstance(expr, ir.GenericConst) else None


def shape_of(expr: Any) -> tuple[int, ...]:
    """Return the static shape of a tensor expression."""
    return tuple(int(d) for d in expr.ty.shape.values)


def dtype_of(expr: Any) -> str:
    """Return the dtype of a tensor expression."""
    return str(expr.ty.dtype)


def scalar(value: float, like: Any) -> Any:
    """Return a scalar constant of the dtype of `like`."""
    return relax.const(np.asarray(value).astype(np.dtype(dtype_of(like))))
