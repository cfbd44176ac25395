"""The order of instances, depth first: whatever is ready furthest down the network runs next.

So a group that works on few images at a time fills the input of the next, which then empties it, and the local
memories hold as little as possible that waits (Zhao et al., OSDI 2023, section 4.3, whose order for halving stages
a a b a a b c comes out of this rule).
"""

from __future__ import annotations

from collections.abc import Sequence

from dsa_compiler.schedule.layer_schedule import CHIP, Group, Instance


def order_instances(groups: Sequence[Group], needs: Sequence[frozenset[int]], images: int) -> tuple[Instance, ...]:
    """All instances of `groups` over `images` images of a cluster; group g reads results of the groups `needs[g]`."""
    done = [0] * len(groups)
    order: list[Instance] = []
    while True:
        ready = [g for g in range(len(groups)) if done[g] < images and _ready(g, groups, needs, done, images)]
        if not ready:
            return tuple(order)
        g = ready[-1]
        high = _end(groups[g], done[g], images)
        order.append(Instance(g, done[g], high))
        done[g] = high


def _end(group: Group, low: int, images: int) -> int:
    return images if group.images == CHIP else min(images, low + group.images)


def _ready(g: int, groups: Sequence[Group], needs: Sequence[frozenset[int]], done: list[int], images: int) -> bool:
    return all(done[p] >= _end(groups[g], done[g], images) for p in needs[g])
