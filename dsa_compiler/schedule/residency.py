"""Where the images of tensors lie in time: chunks that come to life and die, and the memory that they need.

A tensor in llb exists in chunks: the images between two cuts that no instance of its producer or consumers crosses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsa_compiler.graph.layers import LayerGraph
from dsa_compiler.schedule.timeline import Step


@dataclass(frozen=True)
class Chunk:
    """Images [low, high) of a tensor, needed from `first` to `last` on the schedule's time line."""

    tensor: str
    low: int
    high: int
    first: float
    last: float


def chunks(graph: LayerGraph, steps: Sequence[Step], scopes: Mapping[str, str]) -> list[Chunk]:
    """The chunks of all tensors in `scopes`, by first use."""
    uses: dict[str, list[Chunk]] = {}
    for step in steps:
        layer = graph.layers[step.layer]
        for tensor in {v.tensor for v in (*layer.inputs, *layer.outputs)}:
            if tensor in scopes:
                uses.setdefault(tensor, []).append(Chunk(tensor, step.low, step.high, step.start, step.end))
    result: list[Chunk] = []
    for found in uses.values():
        joined: list[Chunk] = []
        for use in sorted(found, key=lambda u: (u.low, -u.high)):
            if joined and use.low < joined[-1].high:
                last = joined[-1]
                joined[-1] = Chunk(
                    use.tensor, last.low, max(last.high, use.high), min(last.first, use.first), max(last.last, use.last)
                )
            else:
                joined.append(use)
        result += joined
    return sorted(result, key=lambda c: (c.first, c.tensor))


def peak(found: Sequence[Chunk], image_bytes: Mapping[str, int]) -> int:
    """The most bytes that are alive at one time."""
    change: dict[float, int] = {}
    for c in found:
        size = (c.high - c.low) * image_bytes[c.tensor]
        change[c.first] = change.get(c.first, 0) + size
        change[c.last] = change.get(c.last, 0) - size
    most, now = 0, 0
    for moment in sorted(change):
        now += change[moment]
        most = max(most, now)
    return most
