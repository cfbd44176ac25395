"""VectorEngine: which axes of a nest one instruction takes, in which order, merged how.

An instruction has up to three dimensions. The engine merges axes that every operand walks as one, tries each
axis that can be innermost, keeps the longest of the others in the instruction and leaves the rest as loops
around it. It checks everything that the part asks of an operand: innermost stride, alignment of rows and base
in the scratchpads, greatest extent and stride.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import prod

from tvm import tirx

from dsa_compiler.emit import tir
from dsa_compiler.emit.expression import Unmatched
from dsa_compiler.emit.kernel_pass import Scope
from dsa_compiler.emit.nest import Access, Axis
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.target import Target

SCRATCHPADS = frozenset({"l1", "l0a", "l0b", "l0c"})


@dataclass(frozen=True)
class Part:
    """An operand to be placed. `broadcast` allows an innermost stride of 0; `written` forbids any 0.

    `rows_aligned` and `base_aligned` say whether the scratchpad's alignment binds it (slide, img2col: not).
    """

    role: str
    access: Access
    broadcast: bool = False
    written: bool = False
    base_aligned: bool = True
    rows_aligned: bool = True


@dataclass(frozen=True)
class Group:
    """Axes walked as one, outermost first. `strides` has one entry for each part; `bound` is the greatest extent."""

    axes: tuple[int, ...]
    extent: tir.Expr | int
    bound: int
    strides: tuple[int | tir.Expr, ...]
    exact: bool


@dataclass(frozen=True)
class Fit:
    """The axes inside one instruction, outermost first, and those left as loops around it."""

    groups: tuple[Group, ...]
    outer: tuple[int, ...]
    calls: int


class VectorEngine:
    """Searches ranks, axis orders, merges and reshapes for a set of operands.

    `scope` proves equalities; without `collapse` axes stay as the nest has them.
    """

    def __init__(self, target: Target, scope: Scope, collapse: bool = True) -> None:
        self.target = target
        self.scope = scope
        self.collapse = collapse

    def fits(
        self,
        axes: Sequence[Axis],
        parts: Sequence[Part],
        *,
        unmergeable: frozenset[int] = frozenset(),
        ranks: tuple[int, ...] = (1, 2, 3),
    ) -> list[Fit]:
        """Every placement that the part accepts, at least one; raises `Unmatched` with what forbids all.

        Axes in `unmergeable` stay by themselves.
        """
        groups = self.merged(axes, parts, unmergeable, backwards=True)
        for part in parts:
            if part.base_aligned:
                self.require_aligned_base(part.access)
        found, reasons = [], []
        for inner in [*range(len(groups)), None]:
            try:
                found.append(self._place(groups, inner, parts, axes, ranks))
            except Unmatched as reason:
                reasons.append((_likelihood(groups, inner, parts), str(reason)))
        if not found:
            raise Unmatched(max(reasons, key=lambda r: r[0])[1])
        return found

    def merged(
        self,
        axes: Sequence[Axis],
        parts: Sequence[Part],
        unmergeable: frozenset[int] = frozenset(),
        backwards: bool = False,
    ) -> list[Group]:
        """The axes with everything merged that all operands walk as one.

        Raises `Unmatched` on strides that are no numbers, and on negative ones unless `backwards`.
        """
        groups = self._merge([self._group(n, a, parts) for n, a in enumerate(axes)], unmergeable)
        self._require_numbers(groups, parts, backwards)
        return groups

    def _group(self, number: int, axis: Axis, parts: Sequence[Part]) -> Group:
        strides = tuple(p.access.strides[number] for p in parts)
        return Group((number,), axis.extent, axis.bound, strides, axis.exact)

    def _merge(self, groups: list[Group], unmergeable: frozenset[int]) -> list[Group]:
        """Merge pairs, in any order, until none is left that all parts walk as one."""
        merged = self.collapse
        while merged:
            merged = False
            for a, b in permutations(range(len(groups)), 2):
                if set(groups[a].axes + groups[b].axes) & unmergeable or not self._mergeable(groups[a], groups[b]):
                    continue
                joined = self._join(groups[a], groups[b])
                groups = [joined if n == b else g for n, g in enumerate(groups) if n != a]
                merged = True
                break
        return groups

    def _mergeable(self, outer: Group, inner: Group) -> bool:
        if outer.bound * inner.bound > self.target.limits.extent:
            return False
        return all(self._contiguous(o, i, inner) for o, i in zip(outer.strides, inner.strides, strict=True))

    def _contiguous(self, outer: int | tir.Expr, inner: int | tir.Expr, group: Group) -> bool:
        if isinstance(outer, int) and isinstance(inner, int):
            if outer == 0 or inner == 0:
                return outer == inner
            return group.exact and outer == inner * group.bound
        if isinstance(inner, int) and inner == 0:
            return False
        product = inner * group.extent
        return self.scope.proves_equal(_expr(outer), _expr(product))

    @staticmethod
    def _join(outer: Group, inner: Group) -> Group:
        exact = outer.exact and inner.exact
        extent = outer.bound * inner.bound if exact else _expr(outer.extent) * inner.extent
        return Group(outer.axes + inner.axes, extent, outer.bound * inner.bound, inner.strides, exact)

    @staticmethod
    def _require_numbers(groups: Sequence[Group], parts: Sequence[Part], backwards: bool) -> None:
        for group in groups:
            for stride, part in zip(group.strides, parts, strict=True):
                if not isinstance(stride, int):
                    raise Unmatched(f"a stride of {part.access.buffer.name} depends on a tile: {stride}")
                if stride < 0 and not backwards:
                    raise Unmatched(f"{part.access.buffer.name} is walked backwards")

    def _place(
        self, groups: Sequence[Group], inner: int | None, parts: Sequence[Part], axes: Sequence[Axis],
        ranks: tuple[int, ...],
    ) -> Fit:  # fmt: skip
        """The placement with one group innermost, or with a single element innermost."""
        innermost = self._unit(parts) if inner is None else groups[inner]
        self._check_innermost(innermost, parts)
        others = [g for n, g in enumerate(groups) if n != inner]
        for group in others:
            self._check_rows(group, parts)
        inside = self._split_long(innermost, max(ranks))
        able = [g for g in others if self._may_be_inside(g, parts)]
        able.sort(key=lambda g: -g.bound)
        chosen = able[: max(ranks) - len(inside)]
        ordered = [g for g in others if any(g is c for c in chosen)]
        outer = tuple(a for g in others if not any(g is c for c in chosen) for a in g.axes)
        placed = [*ordered, *inside]
        while len(placed) < min(ranks):
            placed.insert(0, Group((), 1, 1, tuple(self._row_pitch(p) for p in parts), True))
        return Fit(tuple(placed), outer, prod(axes[a].bound for a in outer))

    def _unit(self, parts: Sequence[Part]) -> Group:
        return Group((), 1, 1, (1,) * len(parts), True)

    def _row_pitch(self, part: Part) -> int:
        """A legal stride for a dimension of one element."""
        return self.unit_elements(part.access)

    @staticmethod
    def _check_innermost(group: Group, parts: Sequence[Part]) -> None:
        for stride, part in zip(group.strides, parts, strict=True):
            if isinstance(stride, int) and stride < 0:
                raise Unmatched(f"{part.access.buffer.name} is walked backwards")
            if stride == 1 or (stride == 0 and part.broadcast and not part.written):
                continue
            raise Unmatched(f"no axis is contiguous in every operand: {part.access.buffer.name} has stride {stride}")

    def _check_rows(self, group: Group, parts: Sequence[Part]) -> None:
        for stride, part in zip(group.strides, parts, strict=True):
            if part.written and stride == 0 and group.bound > 1:
                raise Unmatched(f"{part.access.buffer.name} is written several times")
            if part.rows_aligned and stride % self.unit_elements(part.access):
                raise Unmatched(
                    f"rows of {part.access.buffer.name} in {part.access.scope} are {stride} elements of "
                    f"{part.access.dtype} apart, which is not aligned"
                )

    def _may_be_inside(self, group: Group, parts: Sequence[Part]) -> bool:
        limits = self.target.limits
        widest = max(int(s) * item_bytes(p.access.dtype) for s, p in zip(group.strides, parts, strict=True))
        forwards = all(int(s) >= 0 for s in group.strides)
        return forwards and group.bound <= limits.extent and widest <= limits.stride

    def _split_long(self, group: Group, rank: int) -> list[Group]:
        """An innermost group longer than an extent may be, as rows of equal length."""
        limit = self.target.limits.extent
        if group.bound <= limit:
            return [group]
        if not group.exact or rank < 2:
            raise Unmatched(f"an extent of {group.bound} is beyond the limit of {limit}")
        unit = self.target.memory["l1"].alignment
        for rows in range(-(-group.bound // limit), min(limit, group.bound) + 1):
            length = group.bound // rows
            if rows * length == group.bound and length % unit == 0:
                strides = tuple(s * length for s in group.strides)
                outer = replace(group, axes=(), extent=rows, bound=rows, strides=strides)
                return [outer, replace(group, extent=length, bound=length)]
        raise Unmatched(f"an extent of {group.bound} is beyond the limit of {limit} and does not divide into rows")

    def unit_elements(self, access: Access) -> int:
        """Elements that a row of a scratchpad is a multiple of; 1 in ddr and llb."""
        if access.scope not in SCRATCHPADS:
            return 1
        return max(1, self.target.memory[access.scope].alignment // item_bytes(access.dtype))

    def require_aligned_base(self, access: Access) -> None:
        """Raises `Unmatched` unless the first element of an access is always aligned as its scope asks."""
        unit = self.unit_elements(access)
        if unit == 1:
            return
        offset = access.offset()
        known = tir.constant(offset)
        if known is None:
            modular = self.scope.analyzer.modular_set(self.scope.simplify(offset))
            coefficient, rest = int(modular.coeff), int(modular.base)
        else:
            coefficient, rest = 0, known
        if coefficient % unit or rest % unit:
            raise Unmatched(f"{access.buffer.name} in {access.scope} starts at element {offset}, which is not aligned")


def _likelihood(groups: Sequence[Group], inner: int | None, parts: Sequence[Part]) -> int:
    """How near a choice of the innermost group is to what the author of a nest had in mind: for reasons."""
    if inner is None:
        return -1
    strides = zip(groups[inner].strides, parts, strict=True)
    return sum((2 if part.written else 1) for stride, part in strides if stride == 1)


def _expr(value: tir.Expr | int) -> tir.Expr:
    return tirx.IntImm("int32", value) if isinstance(value, int) else value


def axis_loops(axes: Sequence[Axis], outer: Sequence[int]) -> Iterator[Axis]:
    """The axes that stay loops, in their order in the nest."""
    return (axis for n, axis in enumerate(axes) if n in outer)
