"""Buffers that splitting needs, and the nests that fill and read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferStore, For, Stmt, Var

from dsa_compiler.emit import tir
from dsa_compiler.emit.nest import Axis
from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.target import Target


@dataclass(frozen=True)
class Temporary:
    """A buffer in L1 over some axes of a nest, and its element where those axes stand."""

    buffer: Var
    indices: tuple[tir.Expr, ...]

    @property
    def allocation(self) -> Stmt:
        """The statement that allocates it."""
        return AllocBuffer(self.buffer)

    def read(self) -> tir.Expr:
        """The element."""
        return self.buffer[self.indices]

    def write(self, loops: Sequence[For], value: tir.Expr) -> Stmt:
        """A nest that stores a value at every element."""
        if tir.dtype_of(value) != str(self.buffer.dtype):
            value = tirx.Cast(str(self.buffer.dtype), value)
        return tir.renew(tir.enclose(loops, BufferStore(self.buffer, value, list(self.indices))))


def temporary(
    name: str, dtype: str, axes: Sequence[Axis], rows: Sequence[int], inner: int | None, target: Target
) -> Temporary:
    """A buffer with a dimension for each of `rows` and rows along `inner`, padded to whole L1 rows.

    `rows` and `inner` are numbers of axes; without `inner` each row holds one element.
    """
    extent = 1 if inner is None else axes[inner].bound
    shape = (*(axes[n].bound for n in rows), target.pitch(extent, item_bytes(dtype)))
    buffer = tirx.decl_buffer(shape, dtype, name, scope="global.l1", layout=None)
    last = tirx.IntImm("int32", 0) if inner is None else axes[inner].var
    return Temporary(buffer, (*(axes[n].var for n in rows), last))
