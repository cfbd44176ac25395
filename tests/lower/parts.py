"""Parts for tests: the packaged ones, and smaller ones cut from them as a user's TOML would."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from dsa_compiler.target import Target, load_target, target_from_dict

CUTS: dict[str, tuple[str, dict[str, Any]]] = {
    # two clusters of two cores: multicasts and barriers of both levels, small programs
    "four": ("npu-v1", {"clusters": 2, "cores_per_cluster": 2}),
    # the same cores without multicast, and small scratchpads
    "plain": (
        "npu-v1",
        {
            "clusters": 1,
            "cores_per_cluster": 3,
            "features.multicast": False,
            "features.transpose_load": False,
            "memory.l1.size": 65536,
            "memory.l1.banks": 8,
            "memory.l0a.size": 8192,
            "memory.l0b.size": 8192,
            "memory.l0c.size": 16384,
        },
    ),
    # one core, 64 KiB of L1
    "narrow": ("npu-edge", {"memory.l1.size": 65536}),
    # one core, nearly nothing
    "tiny": (
        "npu-edge",
        {"memory.l1.size": 16384, "memory.l0a.size": 2048, "memory.l0b.size": 2048, "memory.l0c.size": 4096},
    ),
    "single": ("npu-v1", {"clusters": 1, "cores_per_cluster": 1}),
}


@cache
def part(name: str) -> Target:
    """A packaged part, or one of `CUTS`."""
    if name not in CUTS:
        return load_target(name)
    base, changes = CUTS[name]
    return changed(load_target(base), name=name, **changes)


def changed(target: Target, **changes: Any) -> Target:
    """The part with other values at dotted keys of its description."""
    source = copy.deepcopy(dict(target.source))
    for key, value in changes.items():
        *path, last = key.split(".")
        table = source
        for step in path:
            table = table[step]
        table[last] = value
    return target_from_dict(source, "test")
