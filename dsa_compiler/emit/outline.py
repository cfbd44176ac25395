"""CPU outlining: what no instruction carries, as a function of its own.

The kernel keeps the nest; the driver runs the layer, or the nest, on the CPU and reports the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import BufferStore, For, PrimFunc, Stmt, Var

from dsa_compiler.emit import tir


@dataclass(frozen=True)
class Leftover:
    """A nest that no instruction carries, why, and how often it runs at most."""

    stmt: Stmt
    reason: str
    trips: int = 1


@dataclass(frozen=True)
class Outlined:
    """A nest as a function: `func` takes `buffers`, then `scalars` (compile-time variables), in that order."""

    func: PrimFunc
    buffers: tuple[Var, ...]
    scalars: tuple[Var, ...]
    reason: str


def outline(leftover: Leftover, name: str) -> Outlined:
    """The nest as a PrimFunc that TVM compiles for the CPU. Its buffers lose their scope and any alignment."""
    stmt = leftover.stmt
    buffers = _buffers(stmt)
    scalars = _free_scalars(stmt)
    plain = {b: _plain(b) for b in buffers}
    fresh = {v: Var(v.name, v.ty) for v in scalars}
    body = tvm_ffi.structural_mutate(
        tir.substitute(stmt, fresh),
        [
            (BufferStore, lambda s, m: BufferStore(plain[s.buffer], m.mutate(s.value), _mutated(s.indices, m))),
            (TensorLoad, lambda l, m: plain[l.source][tuple(_mutated(l.indices, m))]),
        ],
    )
    params = [*(plain[b] for b in buffers), *(fresh[v] for v in scalars)]
    func = PrimFunc(params, body).with_attrs({"global_symbol": name, "s_tir": True})
    return Outlined(func, tuple(buffers), tuple(scalars), leftover.reason)


def _mutated(indices: Sequence[tir.Expr], mutator: Any) -> list[tir.Expr]:
    return [mutator.mutate(i) for i in indices]


def _plain(buffer: Var) -> Var:
    return tirx.decl_buffer(buffer.shape, buffer.dtype, buffer.name, scope="global", layout=None, data_alignment=4)


def _buffers(stmt: Stmt) -> list[Var]:
    """Buffers in order of first use."""
    found: list[Var] = []
    for buffer in [*(s.buffer for s in tir.stores_of(stmt)), *(l.source for l in tir.loads_of(stmt))]:
        if not any(buffer.same_as(b) for b in found):
            found.append(buffer)
    return found


def _free_scalars(stmt: Stmt) -> list[Var]:
    """Variables that the nest does not define, by name."""
    bound: list[Var] = []
    tvm_ffi.structural_walk(stmt, [(For, lambda l: bound.append(l.loop_var))])
    return sorted(_without(tir.free_variables(stmt), bound), key=lambda v: str(v.name))


def _without(variables: set[Var], bound: Sequence[Var]) -> list[Var]:
    return [v for v in variables if not any(v.same_as(b) for b in bound)]
