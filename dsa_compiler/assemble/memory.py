"""Places in ddr: model inputs and outputs, constants once each, activations by liveness."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.program.tables import Constant
from dsa_compiler.target import Target


@dataclass(frozen=True)
class Lifetime:
    """A tensor of `bytes` that is needed from step `first` to step `last`, both included."""

    name: str
    bytes: int
    first: int
    last: int


@dataclass
class DdrPlan:
    """Addresses of tensors by name; constants with their bytes; `size` bytes of ddr in use."""

    address: dict[str, int] = field(default_factory=dict)
    constants: list[Constant] = field(default_factory=list)
    size: int = 0
    _by_digest: dict[bytes, int] = field(default_factory=dict)

    def add_constant(self, value: np.ndarray, alignment: int) -> int:
        """Address of the constant's bytes; equal constants share one."""
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        digest = hashlib.blake2b(data.data, digest_size=16).digest() + len(data).to_bytes(8, "little")
        if digest not in self._by_digest:
            self._by_digest[digest] = self._append(len(data), alignment)
            self.constants.append(Constant(self._by_digest[digest], data))
        return self._by_digest[digest]

    def _append(self, size: int, alignment: int) -> int:
        start = -(-self.size // alignment) * alignment
        self.size = start + size
        return start


def place_tensors(lifetimes: Sequence[Lifetime], target: Target) -> DdrPlan:
    """Places in ddr for tensors.

    Raises `UserError` if they need more than the part's ddr.
    """
    plan = DdrPlan()
    plan.address, plan.size = place_lifetimes(lifetimes, target.memory["ddr"].alignment)
    check_ddr(plan.size, target)
    return plan


def place_lifetimes(lifetimes: Sequence[Lifetime], alignment: int) -> tuple[dict[str, int], int]:
    """Addresses by name, and the bytes used: the largest first, each in the lowest gap free for all of its life."""
    address: dict[str, int] = {}
    placed: list[tuple[int, int, Lifetime]] = []
    for life in sorted(lifetimes, key=lambda t: (-t.bytes, t.first, t.last)):
        size = -(-life.bytes // alignment) * alignment
        busy = sorted((s, e) for s, e, other in placed if other.first <= life.last and life.first <= other.last)
        start = 0
        for low, high in busy:
            if low - start >= size:
                break
            start = max(start, high)
        placed.append((start, start + size, life))
        address[life.name] = start
    return address, max((end for _, end, _ in placed), default=0)


def check_ddr(size: int, target: Target) -> None:
    """Raises `UserError` if a program needs more ddr than the part has."""
    if size > target.memory["ddr"].size:
        raise UserError(
            f"the model needs {size} bytes of ddr, {target.name} has {target.memory['ddr'].size}",
            where="assemble.memory",
            action="use a smaller batch, a smaller model or float16",
        )
