"""The layer schedule: one plain object between the search that finds it and the compiler that obeys it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CHIP = 0
"""`images` of a group that the whole chip works on, all images at once."""


@dataclass(frozen=True)
class Group:
    """Layers (numbers first to last of the graph) that run one after another on some images of a cluster's share.

    `images` is the number of images of one instance, `CHIP` for layers that all clusters work on together. Kernels of
    a `side` group run beside those of others, in a small part of L1: they bring inputs from ddr, or results there.
    """

    first: int
    last: int
    images: int
    side: bool = False

    @property
    def layers(self) -> range:
        """The numbers of the layers."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True)
class Instance:
    """A group on the images [low, high) of each cluster's share."""

    group: int
    low: int
    high: int


@dataclass(frozen=True)
class LayerSchedule:
    """What runs where and when.

    `shares`: images of each cluster, in order of the batch; `scopes`: the memory of every activation that is not in
    ddr; `order`: the instances as they follow one another; `cycles`: expected time.
    """

    images: int
    shares: tuple[int, ...]
    groups: tuple[Group, ...]
    scopes: Mapping[str, str]
    order: tuple[Instance, ...]
    cycles: float = 0.0

    @property
    def most(self) -> int:
        """The largest share of a cluster."""
        return max(self.shares)

    def starts(self) -> tuple[int, ...]:
        """The first image of each cluster's share."""
        return tuple(sum(self.shares[:c]) for c in range(len(self.shares)))


def even_shares(images: int, clusters: int) -> tuple[int, ...]:
    """Images of each cluster, as even as they go; clusters without any are left out."""
    used = min(images, clusters)
    return tuple(images // used + (c < images % used) for c in range(used))
