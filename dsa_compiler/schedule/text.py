"""A layer schedule as text for people: groups with their layers, instances in order, tensors in llb."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from dsa_compiler.graph.layers import LayerGraph
from dsa_compiler.schedule.layer_schedule import CHIP, Group, LayerSchedule

_WIDTH = 118


def schedule_lines(
    schedule: LayerSchedule, graph: LayerGraph, cycles: Sequence[float], image_bytes: Mapping[str, int], peak: int
) -> Iterator[str]:
    """The lines; `cycles` are expected of each group, `image_bytes` those of one image of each tensor in llb."""
    activations = sum(t.role == "activation" for t in graph.tensors.values())
    yield f"{schedule.images} images, {' + '.join(map(str, schedule.shares))} by cluster"
    yield f"groups: {len(schedule.groups)}, instances: {len(schedule.order)}, {sum(cycles):,.0f} cycles expected"
    yield f"{len(schedule.scopes)} of {activations} activations in llb, {peak:,} bytes at most"
    for number, group in enumerate(schedule.groups):
        yield f"group {number}: {_images(group)}, {cycles[number]:,.0f} cycles expected"
        yield from _wrapped(", ".join(graph.layers[n].name for n in group.layers))
    yield "order (group, images of a cluster's share):"
    yield from _wrapped("  ".join(f"{i.group}[{i.low}:{i.high}]" for i in schedule.order))
    if schedule.scopes:
        yield "in llb (bytes of an image):"
        yield from _wrapped(", ".join(f"{t} {image_bytes[t]:,}" for t in schedule.scopes))


def _images(group: Group) -> str:
    if group.images == CHIP:
        return "all images on the chip"
    beside = ", beside other kernels" if group.side else ""
    return f"{group.images} image{'s' if group.images > 1 else ''} an instance{beside}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip
