"""Requantisations in the calls of a layer: whole numbers scaled, rounded and saturated to 8 bits.

The vector engine has an instruction for them that takes the scale as an operand, and one for a scaled difference from
a zero point, so scales that are numbers become constants of one element.

Before: %3 = multiply(%2, 0.02), %4 = round(%3), ...        after: %3 = multiply(%2, in4), ..., in4 a constant
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dsa_compiler.graph.layers import Arg, Layer, LayerGraph, OpCall, Tensor
from dsa_compiler.graph.views import View

LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


@dataclass(frozen=True)
class Requantization:
    """Calls that together requantise: `scale` is the product among them, `calls` all but those before it."""

    scale: int
    calls: tuple[int, ...]


def requantizations(calls: Sequence[OpCall], inputs: Sequence[str] | None = None) -> list[Requantization]:
    """The requantisations among the calls of a layer; `inputs` are the dtypes of its inputs, if they are known."""
    found = (_ending_at(number, calls, inputs) for number in range(len(calls)))
    return [r for r in found if r is not None]


def with_scale_operands(layer: Layer, graph: LayerGraph) -> tuple[Layer, LayerGraph]:
    """The layer with the scales of its requantisations as operands, and the graph with the constants they read."""
    calls, inputs, tensors = list(layer.calls), list(layer.inputs), dict(graph.tensors)
    dtypes = [graph.tensors[v.tensor].dtype for v in inputs]
    products = {found.scale for found in requantizations(calls, dtypes)}
    products |= {n for n, call in enumerate(calls) if call.op == "multiply" and _is_dequantization(call, calls, dtypes)}
    for number in sorted(products):
        call = calls[number]
        place = next((n for n, (kind, _) in enumerate(call.args) if kind == "const"), None)
        if place is None:
            continue
        name = f"{layer.name}.scale{number}"
        value = np.asarray([call.args[place][1]], np.float32)
        tensors[name] = Tensor(name, (1,), "float32", "constant", value)
        operand: Arg = ("input", len(inputs))
        calls[number] = replace(call, args=(*call.args[:place], operand, *call.args[place + 1 :]))
        inputs.append(View(name, call.shape, ((0, 0),) * len(call.shape), (0, 0)))
    if len(inputs) == len(layer.inputs):
        return layer, graph
    return replace(layer, calls=tuple(calls), inputs=tuple(inputs)), replace(graph, tensors=tensors)


def _ending_at(last: int, calls: Sequence[OpCall], inputs: Sequence[str] | None) -> Requantization | None:
    """The requantisation whose last call is `last`: (whole - zero) * scale, round, + zero, clip, astype."""
    uses = Counter(int(v) for call in calls for k, v in call.args if k == "call")
    if calls[last].op != "astype" or calls[last].dtype not in LIMITS:
        return None
    chain = [last]

    def step(*names: str) -> OpCall | None:
        """Go on to the call that the last one reads, if that is one of `names` and nothing else reads it."""
        kind, value = calls[chain[-1]].args[0]
        number = int(value)
        if kind != "call" or calls[number].op not in names or uses[number] != 1 or calls[number].dtype != "float32":
            return None
        chain.append(number)
        return calls[number]

    clip = step("clip")
    if clip is None or not _within(clip.attrs, LIMITS[calls[last].dtype]):
        return None
    shifted = step("add")
    if (shifted is not None and _whole_addend(shifted) is None) or step("round") is None:
        return None
    product = step("multiply")
    if product is None or not _is_scale(product, inputs) or not _is_whole(product, calls, inputs):
        return None
    return Requantization(chain[-1], tuple(chain))


def _within(bounds: Mapping[str, Any], limits: tuple[int, int]) -> bool:
    """Whether the bounds of a clip are whole numbers within `limits`."""
    low, high = bounds.get("min"), bounds.get("max")
    if low is None or high is None or not limits[0] <= low <= high <= limits[1]:
        return False
    return float(low).is_integer() and float(high).is_integer()


def _is_dequantization(product: OpCall, calls: Sequence[OpCall], inputs: Sequence[str]) -> bool:
    """Whether a product scales the difference of an integer from a zero point, which nothing else reads."""
    kind, value = product.args[0]
    if kind != "call" or calls[int(value)].op != "add" or product.dtype != "float32":
        return False
    uses = sum(arg == ("call", int(value)) for call in calls for arg in call.args)
    return uses == 1 and _is_whole(product, calls, inputs)


def _whole_addend(call: OpCall) -> int | None:
    """The whole number that a call adds, if it adds one."""
    kind, value = call.args[-1]
    return int(value) if kind == "const" and math.isfinite(value) and float(value).is_integer() else None


def _is_scale(product: OpCall, inputs: Sequence[str] | None) -> bool:
    kind, value = product.args[1]
    return kind == "const" or (kind == "input" and (inputs is None or inputs[int(value)] == "float32"))


def _is_whole(product: OpCall, calls: Sequence[OpCall], inputs: Sequence[str] | None) -> bool:
    """Whether what is scaled is an integer as a float, less a whole zero point or not."""
    kind, value = product.args[0]
    call = calls[int(value)] if kind == "call" else None
    if call is not None and call.op == "add" and _whole_addend(call) is not None and call.args[0][0] == "call":
        call = calls[int(call.args[0][1])]
    if call is None or call.op != "astype" or call.dtype != "float32":
        return False
    kind, value = call.args[0]
    if kind == "input" and inputs is None:
        return True
    source = calls[int(value)].dtype if kind == "call" else (inputs or ())[int(value)]
    return source in ("int8", "uint8", "int32")
