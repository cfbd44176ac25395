"""Copies whose two sides are not contiguous along one axis, through L1: part of PreProcess."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.tirx import BufferStore, Stmt

from dsa_compiler.emit import tir
from dsa_compiler.emit.kernel_pass import Scope
from dsa_compiler.emit.nest import Access, Nest
from dsa_compiler.emit.temporaries import Temporary, temporary
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.target import Target

MEMORIES = ("ddr", "llb")
STAGED_SHARE = 8
"""What is staged takes at most this part of L1, if axes can be walked one at a time."""


@dataclass(frozen=True)
class Restride:
    """One copy to be taken apart: load number `slot` as it is."""

    stmt: Stmt
    nest: Nest
    target: Target
    scope: Scope
    slot: int

    @property
    def source(self) -> Access:
        """What is copied."""
        return self.nest.loads[self.slot]

    def split(self) -> Stmt | None:
        """The copy as several; None where one instruction does it or this pass knows no way."""
        src, dst = self.source, self.nest.store
        if any(a == b == 1 for a, b in zip(src.strides, dst.strides, strict=True)) or not self.nest.axes:
            return None
        back = [n for n, s in enumerate(src.strides) if s == -1 and dst.strides[n] == 1]
        if back and src.scope in MEMORIES and dst.scope == "l1" and not self.nest.predicate:
            return self._reversed(back[0])
        backwards = any(isinstance(s, int) and s < 0 for s in (*src.strides, *dst.strides))
        if backwards or self._padded_from_one(src, dst):
            return None
        if src.scope in MEMORIES and dst.scope == "l1":
            return self._load()
        return self._store() if dst.scope in MEMORIES and src.scope in ("l1", "l0c") else None

    def _reversed(self, axis: int) -> Stmt:
        """Rows copied as they are, then reversed."""
        found = self.nest.axes[axis]
        loops, store = self._parts()
        held = temporary("staged", self.nest.store.dtype, self.nest.axes, self._rows(axis), axis, self.target)
        back = {found.var: found.extent - 1 - found.var}
        read = tir.substitute(held.read(), back)
        return tir.sequence([
            held.allocation,
            held.write(loops, tir.substitute(store.value, back)),
            tir.renew(tir.enclose(loops, BufferStore(store.buffer, read, list(store.indices)))),
        ])  # fmt: skip

    def _padded_from_one(self, src: Access, dst: Access) -> bool:
        """Whether the source has one element along the destination's rows and the rest is padding."""
        checked = {n for c in self.nest.predicate for n in c.axes}
        return any(src.strides[n] == 0 and dst.strides[n] == 1 for n in checked)

    def _contiguous(self, access: Access) -> int | None:
        """The longest axis along which an access is contiguous."""
        found = [n for n, s in enumerate(access.strides) if isinstance(s, int) and s == 1]
        return max(found, key=lambda n: self.nest.axes[n].bound, default=None)

    def _load(self) -> Stmt | None:
        inner, along = self._contiguous(self.source), self._contiguous(self.nest.store)
        if inner is not None and along is not None and self.target.features.transpose_load and not self.nest.predicate:
            return None
        if inner is None and along is not None:
            every_other = self._every_other(along)
            if every_other is not None:
                return every_other
        return self._through(inner)

    def _store(self) -> Stmt:
        return self._through(self._contiguous(self.nest.store))

    def _through(self, inner: int | None) -> Stmt:
        """Memory side by rows along `inner` (or of one element), then the vector engine's transpose, or before it.

        What does not move along the destination's rows is held once and read again and again.
        """
        used = [n for n in range(len(self.nest.axes)) if not self._still(n)]
        along = self._contiguous(self.nest.store)
        if along is not None and along not in used:
            inner = None
        else:
            used = list(range(len(self.nest.axes)))
        rows = [n for n in self._rows(inner) if n in used]
        tiled = self._tiled(rows, inner)
        rows = [n for n in rows if n not in tiled]
        held = temporary("staged", self.nest.store.dtype, self.nest.axes, rows, inner, self.target)
        loops, store = self._parts()
        by_var = {a.var: n for n, a in enumerate(self.nest.axes)}
        around = [l for l in loops if by_var.get(l.loop_var) in tiled]
        inside = [l for l in loops if by_var.get(l.loop_var) not in tiled]
        copies = tir.sequence([
            held.allocation,
            held.write([l for l in inside if by_var.get(l.loop_var) in used], store.value),
            tir.renew(tir.enclose(inside, BufferStore(store.buffer, held.read(), list(store.indices)))),
        ])  # fmt: skip
        for loop in reversed(around):
            copies = tirx.For(
                loop.loop_var, loop.min, loop.extent, loop.kind, copies, annotations={tir.TILE: tirx.IntImm("int32", 1)}
            )
        return copies

    def _tiled(self, rows: list[int], inner: int | None) -> list[int]:
        """Axes to be walked one at a time, so that what is staged takes no more than its share of L1."""
        size = item_bytes(self.nest.store.dtype)
        row = self.target.pitch(1 if inner is None else self.nest.axes[inner].bound, size) * size
        total = row * prod(self.nest.axes[n].bound for n in rows)
        tiled: list[int] = []
        for n in rows[:-1]:
            if total <= self.target.memory["l1"].size // STAGED_SHARE:
                break
            tiled.append(n)
            total //= self.nest.axes[n].bound
        return tiled

    def _still(self, axis: int) -> bool:
        stride = self.source.strides[axis]
        return isinstance(stride, int) and stride == 0

    def _rows(self, inner: int | None) -> list[int]:
        """The other axes, in the order of the memory side's strides."""
        access = self.source if self.source.scope in MEMORIES else self.nest.store
        others = [n for n in range(len(self.nest.axes)) if n != inner]
        return sorted(others, key=lambda n: -(s if isinstance(s := access.strides[n], int) else 0))

    def _parts(self) -> tuple[list[tirx.For], BufferStore]:
        loops, body = tir.peel(self.stmt)
        return loops, body

    def _every_other(self, along: int) -> Stmt | None:
        """Every other element of rows that are copied whole: `t[.., 2 * a + phase]`."""
        if self.source.strides[along] != 2 or self.nest.predicate:
            return None
        dim = next((d for d, s in enumerate(self.source.slopes) if s[along] == 2), None)
        if dim is None or dim != len(self.source.slopes) - 1:
            return None
        phase = self._phase(dim, along)
        if phase is None:
            return None
        return self._deinterleaved(dim, along, phase)

    def _phase(self, dim: int, along: int) -> int | None:
        """1 where the element before the first is read along, 0 where that after the last is, or is padding.

        The end of a row may be padding that nothing wrote.
        """
        inner = self.scope.inside(tir.peel(self.stmt)[0])
        load = self.nest.reads[self.slot]
        index, size = load.indices[dim], int(load.source.shape[dim])
        modular = inner.analyzer.modular_set(inner.simplify(index))
        if int(modular.coeff) % 2 == 0 and int(modular.base) % 2 == 1:
            return 1
        if inner.upper(index) + 1 <= size - self.target.row_elements(item_bytes(self.nest.store.dtype)):
            return 0
        if inner.lower(index) >= 1:
            return 1
        return 0 if self.source.scope in MEMORIES else None

    def _inside_row(self, dim: int) -> bool:
        """Whether the element after the last is in the row, and no padding of it."""
        inner = self.scope.inside(tir.peel(self.stmt)[0])
        load = self.nest.reads[self.slot]
        sure = int(load.source.shape[dim]) - self.target.row_elements(item_bytes(self.nest.store.dtype))
        return bool(inner.upper(load.indices[dim]) + 1 <= sure)

    def _deinterleaved(self, dim: int, along: int, phase: int) -> Stmt:
        axis = self.nest.axes[along]
        loops, store = self._parts()
        dtype = self.nest.store.dtype
        rows = self._rows(along)
        length = self.target.pitch(2 * axis.bound, item_bytes(dtype))
        shape = (*(self.nest.axes[n].bound for n in rows), length)
        buffer = tirx.decl_buffer(shape, dtype, "pairs", scope="global.l1", layout=None)
        at = tuple(self.nest.axes[n].var for n in rows)
        whole = tirx.Var(axis.var.name, axis.var.ty)
        load = self.nest.reads[self.slot]
        indices = list(tir.substitute(list(load.indices), {axis.var: tir.integer(0, axis.var)}))
        indices[dim] = indices[dim] - phase + whole
        wide = [_doubled(l, whole) if l.loop_var.same_as(axis.var) else l for l in loops]
        held = Temporary(buffer, (*at, whole))
        read = load.source[tuple(indices)]
        if not phase and not self._inside_row(dim):
            read = tirx.if_then_else(whole < axis.extent * 2 - 1, read, tirx.const(0, dtype))
        back = BufferStore(store.buffer, buffer[(*at, axis.var * 2 + phase)], list(store.indices))
        return tir.sequence([
            held.allocation,
            held.write(wide, read),
            tir.renew(tir.enclose(loops, back)),
        ])  # fmt: skip


def _doubled(loop: tirx.For, var: tirx.Var) -> tirx.For:
    return tirx.For(var, loop.min, loop.extent * 2, loop.kind, loop.body)
