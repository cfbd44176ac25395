"""Grouping of bindings into layers: one anchor and its elementwise epilogue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from tvm import relax

from dsa_compiler.graph.calls import dtype_of, op_name, shape_of
from dsa_compiler.graph.rewriter import operands
from dsa_compiler.operators.table import OPERATORS, is_elementwise

FIRST_ANCHORS = frozenset({"convolution", "matmul"})
LATER_ANCHORS = frozenset({"pooling", "softmax", "normalization", "reduction", "gather"})


@dataclass(frozen=True)
class Group:
    """Bindings of one layer, as indices in order; the last is the one whose value others use.

    `master` is the anchor, or the last binding of an elementwise group.
    """

    members: tuple[int, ...]
    master: int


def group_bindings(bindings: Sequence[Any], results: Iterable[Any]) -> list[Group]:
    """Return the groups of all calls but data movements, each call in exactly one.

    `results` are the variables that the function returns. Products are served first, the last of them before
    the others, so that a sum of two products joins the one that is computed later.
    """
    return _Grouping(bindings, results).groups()


class _Grouping:
    def __init__(self, bindings: Sequence[Any], results: Iterable[Any]) -> None:
        self._bindings = bindings
        self._index = {b.var: i for i, b in enumerate(bindings)}
        self._names = [op_name(b.value) for b in bindings]
        self._shapes = [shape_of(b.var) if isinstance(b.var.ty, relax.TensorType) else () for b in bindings]
        self._inputs: list[list[int]] = []
        self._users: list[list[int]] = [[] for _ in bindings]
        for i, b in enumerate(bindings):
            sources = [self._index[v] for v in operands(b.value) if isinstance(v, relax.Var) and v in self._index]
            self._inputs.append(sources)
            for s in dict.fromkeys(sources):
                self._users[s].append(i)
        for v in results:
            if v in self._index:
                self._users[self._index[v]].append(-1)
        self._taken: set[int] = set()

    def groups(self) -> list[Group]:
        """Return the groups in the order of their last members."""
        result = []
        for categories in (FIRST_ANCHORS, LATER_ANCHORS):
            for i in reversed(range(len(self._bindings))):
                if self._category(i) in categories:
                    result.append(self._grow(i, anchored=True))
        for i in range(len(self._bindings)):
            if i not in self._taken and self._is_elementwise(i):
                result.append(self._grow(i, anchored=False))
        return sorted(result, key=lambda g: g.members[-1])

    def _category(self, i: int) -> str:
        operator = OPERATORS.get(self._names[i])
        return operator.category if operator else ""

    def _is_elementwise(self, i: int) -> bool:
        return is_elementwise(self._names[i]) and not self._is_wide_cast(i)

    def _is_wide_cast(self, i: int) -> bool:
        """Whether a binding casts from or to 64-bit integers, which is a layer of its own."""
        if self._names[i] != "astype":
            return False
        binding = self._bindings[i]
        return "int64" in (dtype_of(binding.var), dtype_of(binding.value.args[0]))

    def _grow(self, seed: int, anchored: bool) -> Group:
        """Take elementwise users as long as, in the end, one member alone is used outside."""
        members: set[int] = set()
        outside: dict[int, int] = {}  # member -> how many of its users are none
        waiting: list[int] = []  # users of members, the first in order first

        def take(i: int) -> None:
            members.add(i)
            outside[i] = sum(u not in members for u in self._users[i])
            for s in dict.fromkeys(self._inputs[i]):
                if s in members:
                    outside[s] -= 1
            for u in self._users[i]:
                heappush(waiting, u)

        take(seed)
        closed = {seed}
        while waiting:
            i = heappop(waiting)
            if i < 0 or i in members or not self._joins(i, members):
                continue
            for new in sorted(self._absorbed(i, members, seed if anchored else -1)):
                take(new)
            take(i)
            if outside[i] and not any(n for m, n in outside.items() if m != i):
                closed = set(members)
        self._taken |= closed
        ordered = tuple(sorted(closed))
        return Group(ordered, seed if anchored else ordered[-1])

    def _joins(self, i: int, members: set[int]) -> bool:
        return (
            i not in self._taken
            and self._is_elementwise(i)
            and self._shapes[i] == self._shapes[max(members)]
        )

    def _absorbed(self, i: int, members: set[int], anchor: int) -> set[int]:
        """Return elementwise operators that feed `i` alone and belong to no group; none that `anchor` reads."""
        found: set[int] = set()
        pending = list(self._inputs[i])
        while pending:
            s = pending.pop()
            if s in members or s in found or s in self._taken or not self._is_elementwise(s):
                continue
            if self._shapes[s] != self._shapes[i]:
                continue
            if anchor not in self._users[s] and all(
                u in members or u in found or u == i for u in self._users[s]
            ):
                found.add(s)
                pending.extend(self._inputs[s])
        return found
