"""The layers of a network in plain Python: what lowering and scheduling read.

Lowering sees no Relax: a `LayerGraph` is frozen, printable and can be evaluated (`evaluate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dsa_compiler.graph.views import View, is_identity

Role = Literal["input", "output", "constant", "activation"]
Kind = Literal[
    "conv2d", "depthwise", "matmul", "pool", "softmax", "norm", "reduce", "elementwise", "gather", "movement",
    "attention", "concat", "host", "other",
]  # fmt: skip
Arg = tuple[Literal["input"], int] | tuple[Literal["call"], int] | tuple[Literal["const"], float | int | bool]


@dataclass(frozen=True)
class Tensor:
    """A buffer of the network: inputs and outputs in the model's layout and dtype, constants, activations.

    Rows (all dimensions but the last, flattened) of an activation may be stored with a padded pitch unless `dense`:
    then some view runs across rows, and the tensor must be stored without padding. Inputs, outputs and constants are
    dense. `scope` is the memory that holds it, which the layer schedule decides.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    value: npt.NDArray[Any] | None = field(default=None, compare=False, repr=False)
    dense: bool = False
    scope: str = "ddr"

    @property
    def columns(self) -> int:
        """The extent of the last dimension (1 for a scalar)."""
        return self.shape[-1] if self.shape else 1

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class OpCall:
    """One operation of a layer: a Relax operator (name without prefix) or `copy`, with plain attributes.

    `args` are inputs of the layer, results of earlier calls, or numbers. `node` is the ONNX node.
    """

    op: str
    args: tuple[Arg, ...]
    attrs: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: str
    node: str

    def __str__(self) -> str:
        args = [f"in{v}" if k == "input" else f"%{v}" if k == "call" else f"{v:g}" for k, v in self.args]
        attrs = [f"{k}={f'<{len(v)} bytes>' if isinstance(v, bytes) else v}" for k, v in self.attrs.items()]
        return f"{self.op}({', '.join(args + attrs)}): {list(self.shape)} {self.dtype}"


@dataclass(frozen=True)
class Layer:
    """An anchor with its elementwise epilogue: `calls` in order, `calls[master]` the anchor, the last the result.

    Elementwise operands have the shape of their call, broadcast by stride 0; their last dimension, and that of the
    data of convolutions, pools, norms, reductions and gathers, is contiguous or repeats. Operands of a matmul
    (..., m, k) x (..., k, n) have one of their two last dimensions contiguous; batch dimensions of the two
    broadcast as in NumPy. The operand of a movement may be any view. `output` is the view of an output,
    activation or part of one that the last call fills.

    A layer of kind host has one call `host`, whose attributes hold a serialised ONNX model (`model`), the `reason` and
    the `operators`; its operands and results are contiguous views of dense tensors, in the order of the model's inputs
    and outputs. Results after the first are in `more`; every other layer has one.

    A joined layer (attention, concat) keeps the layers that it stands for in `parts`.
    """

    name: str
    kind: Kind
    calls: tuple[OpCall, ...]
    master: int
    inputs: tuple[View, ...]
    output: View
    nodes: tuple[str, ...]
    more: tuple[View, ...] = ()
    parts: tuple[Layer, ...] = ()

    @property
    def outputs(self) -> tuple[View, ...]:
        """The views that the layer writes."""
        return (self.output, *self.more)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.kind} -> {', '.join(str(v) for v in self.outputs)}"]
        lines += [f"    in{i} = {v}" for i, v in enumerate(self.inputs)]
        lines += [f"    %{i} = {c}{' *' if i == self.master else ''}" for i, c in enumerate(self.calls)]
        return "\n".join(lines)


@dataclass(frozen=True)
class LayerGraph:
    """Layers in an order that respects their dependences, and the tensors they read and write, by name."""

    tensors: Mapping[str, Tensor]
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        lines = []
        for tensor in self.tensors.values():
            if tensor.role != "constant":
                dense = " dense" if tensor.dense and tensor.role == "activation" else ""
                lines.append(f"{tensor.role} {tensor.name} {list(tensor.shape)} {tensor.dtype}{dense}")
        return "\n".join([*lines, *(str(layer) for layer in self.layers)])

    def whole(self, view: View) -> bool:
        """Whether `view` is all of its tensor in order."""
        return is_identity(view, self.tensors[view.tensor].shape)

    def counts(self) -> dict[str, int]:
        """Return the number of layers of each kind."""
        kinds = [layer.kind for layer in self.layers]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
