"""Runs kernels: level 3 by TVM's LLVM, level 4 by the instruction table's semantics on NumPy memories.

Scratch memories start as NaN (integers: a sentinel), so that reading what nothing wrote shows in the result.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import tvm
from numpy.lib.stride_tricks import as_strided
from tvm import tirx
from tvm.tirx import AllocBuffer, For, IfThenElse, PrimFunc, SeqStmt, Stmt, Var

from dsa_compiler.emit.intrinsics import decode_call, is_instruction
from dsa_compiler.emit.nest import SCOPES
from dsa_compiler.isa.convert import convert
from dsa_compiler.isa.dtypes import numpy_dtype
from dsa_compiler.isa.table import OPCODES


def run_tvm(func: PrimFunc, arrays: list[np.ndarray]) -> None:
    """Run a function on the CPU, in place."""
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    lib = tvm.compile(module, target={"kind": "llvm", "opt-level": 0})
    tensors = [tvm.runtime.tensor(a) for a in arrays]
    lib["main"](*tensors)
    for array, tensor in zip(arrays, tensors, strict=True):
        array[...] = tensor.numpy()


def poison(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = numpy_dtype(dtype)
    if kind == np.bool_:
        return np.ones(shape, kind)
    return np.full(shape, np.nan if np.dtype(kind).kind not in "iu" else 77, kind)


OPERATORS = {
    tirx.Add: operator.add, tirx.Sub: operator.sub, tirx.Mul: operator.mul, tirx.FloorDiv: operator.floordiv,
    tirx.FloorMod: operator.mod, tirx.Min: min, tirx.Max: max, tirx.EQ: operator.eq, tirx.NE: operator.ne,
    tirx.LT: operator.lt, tirx.LE: operator.le, tirx.GT: operator.gt, tirx.GE: operator.ge,
    tirx.And: lambda a, b: a and b, tirx.Or: lambda a, b: a or b,
}  # fmt: skip


class Machine:
    """Executes a level-4 function; counts instructions by opcode."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.buffers: dict[Var, np.ndarray] = {}

    def run(self, func: PrimFunc, arrays: list[np.ndarray]) -> None:
        self.buffers = dict(zip(func.params, arrays, strict=True))
        self.execute(func.body, {})

    def value(self, expr: Any, env: dict[Var, int]) -> int:
        """The value of an integer expression of compile-time variables."""
        if isinstance(expr, int):
            return expr
        if isinstance(expr, tirx.IntImm):
            return int(expr.value)
        if isinstance(expr, Var):
            return env[expr]
        if isinstance(expr, tirx.Cast):
            return self.value(expr.value, env)
        if isinstance(expr, tirx.Not):
            return int(not self.value(expr.a, env))
        if isinstance(expr, tvm.ir.Call) and expr.op.name == "prim.if_then_else":
            return self.value(expr.args[1 if self.value(expr.args[0], env) else 2], env)
        return int(OPERATORS[type(expr)](self.value(expr.a, env), self.value(expr.b, env)))

    def execute(self, stmt: Stmt, env: dict[Var, int]) -> None:
        if isinstance(stmt, SeqStmt):
            for s in stmt.seq:
                self.execute(s, env)
        elif isinstance(stmt, For):
            start, extent = self.value(stmt.min, env), self.value(stmt.extent, env)
            for i in range(start, start + extent):
                self.execute(stmt.body, {**env, stmt.loop_var: i})
        elif isinstance(stmt, IfThenElse):
            if self.value(stmt.condition, env):
                self.execute(stmt.then_case, env)
            elif stmt.else_case is not None:
                self.execute(stmt.else_case, env)
        elif isinstance(stmt, AllocBuffer):
            buffer = stmt.buffer
            self.buffers[buffer] = poison(tuple(int(e) for e in buffer.shape), str(buffer.dtype))
        elif is_instruction(stmt):
            self.issue(stmt, env)
        else:
            raise AssertionError(f"left over: {stmt}")

    def issue(self, stmt: Stmt, env: dict[Var, int]) -> None:
        opcode, operands, attrs, exprs = decode_call(stmt.value)
        values = [self.value(e, env) for e in exprs]
        attrs = _resolve(attrs, values)
        definition = OPCODES[opcode]
        self.counts[opcode] = self.counts.get(opcode, 0) + 1
        views, shapes = {}, {}
        for operand in operands:
            views[operand.role] = self.view(operand, env)
            spec = definition.spec(operand.role)
            assert spec is not None, (opcode, operand.role)
            assert len(operand.extents) in spec.ranks, (opcode, operand.role, len(operand.extents))
            view, scope = views[operand.role], SCOPES[str(operand.buffer.scope())]
            assert scope in spec.scopes, (opcode, operand.role, scope)
            shapes[operand.role] = _Shape(scope, str(operand.buffer.dtype), view.shape, view.strides)
        assert {o.role for o in definition.operands if not o.optional} == set(views), opcode
        assert {a.name for a in definition.attrs if a.required} <= set(attrs), (opcode, attrs)
        complaint = definition.check(shapes, attrs) if definition.check else None
        assert complaint is None, f"{opcode}: {complaint}"
        target = views.get("dst", views.get("acc"))
        reads = {r: v for r, v in views.items() if r != "dst" or definition.tags & {"shaped"}}
        result = definition.semantics(reads, attrs)
        assert result is not None
        with np.errstate(all="ignore"):
            value = convert(
                np.asarray(result), shapes["dst" if "dst" in shapes else "acc"].dtype, "saturate" in definition.tags
            )
            target[...] = value.reshape(target.shape)

    def view(self, operand: Any, env: dict[Var, int]) -> np.ndarray:
        array = self.buffers[operand.buffer]
        flat = array.reshape(-1)
        offset = 0
        for index, extent in zip(operand.base, array.shape, strict=True):
            offset = offset * extent + self.value(index, env)
        extents = [self.value(e, env) for e in operand.extents]
        assert all(e > 0 for e in extents), (operand.role, extents)
        last = offset + sum((e - 1) * s for e, s in zip(extents, operand.strides, strict=True))
        assert offset >= 0 and last < flat.size, f"{operand.buffer.name}: {offset}..{last} of {flat.size}"
        strides = [s * flat.itemsize for s in operand.strides]
        return as_strided(flat[offset:], extents, strides)


class _Shape:
    def __init__(self, scope: str, dtype: str, extents: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.scope, self.dtype, self.extents, self.strides = scope, dtype, extents, strides


def _resolve(value: Any, exprs: list[int]) -> Any:
    if isinstance(value, dict):
        return {k: _resolve(v, exprs) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, exprs) for v in value]
    if isinstance(value, str) and value.startswith("$"):
        return exprs[int(value[1:])]
    if isinstance(value, str) and value in ("inf", "-inf", "nan"):
        return float(value)
    return value
