"""Instructions as TIR intrinsics: one operator `tirx.npu.<opcode>` for each opcode, and the layout of its call.

A call's arguments are flat. For each operand: its role, `address_of(buffer[base])`, the rank, the extents and
the strides in elements (outermost first). Then "attrs", JSON text, and the expressions that "$0", "$1", ... in
the JSON stand for.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Call, Op, StringImm, TensorLoad
from tvm.ir.op import _ffi_api as op_api
from tvm.ir.op import register_op_attr
from tvm.tirx import Evaluate, Stmt, Var

from dsa_compiler.emit import tir

PREFIX = "tirx.npu."
_OPAQUE = 3  # CallEffectKind: never removed, merged or moved


@dataclass(frozen=True)
class InstructionOperand:
    """An operand: where it starts, and its extents and strides in elements, outermost first."""

    role: str
    buffer: Var
    base: tuple[tir.Expr, ...]
    extents: tuple[tir.Expr | int, ...]
    strides: tuple[int, ...]


@functools.cache
def intrinsic(opcode: str) -> Op:
    """The operator of an opcode; registered when first asked for."""
    name = PREFIX + opcode
    if name not in {str(n) for n in Op.list_op_names()}:
        op_api.RegisterOp(name, f"NPU instruction {opcode}")
        register_op_attr(name, "TScriptPrinterName", f"npu.{opcode}")
        register_op_attr(name, "TCallEffectKind", _OPAQUE)
    return Op.get(name)


def is_instruction(stmt: Stmt) -> bool:
    """Whether a statement is one instruction."""
    if not isinstance(stmt, Evaluate) or not isinstance(stmt.value, Call):
        return False
    op = stmt.value.op
    return isinstance(op, Op) and op.name.startswith(PREFIX)


def encode(opcode: str, operands: Sequence[InstructionOperand], attrs: Mapping[str, Any]) -> Stmt:
    """The statement that issues one instruction. Expressions among the attributes become "$n"."""
    args: list[Any] = []
    for operand in operands:
        args += [StringImm(operand.role), tirx.address_of(operand.buffer[tuple(operand.base)])]
        args.append(tirx.IntImm("int32", len(operand.extents)))
        args += [_int(e) for e in operand.extents]
        args += [_int(s) for s in operand.strides]
    exprs: list[tir.Expr] = []
    text = json.dumps(_abstract(dict(attrs), exprs), sort_keys=True)
    args += [StringImm("attrs"), StringImm(text), *exprs]
    return Evaluate(tirx.call_intrin("", intrinsic(opcode), *args))


def _int(value: tir.Expr | int) -> tir.Expr:
    return tirx.IntImm("int32", value) if isinstance(value, int) else value


def _abstract(value: Any, exprs: list[tir.Expr]) -> Any:
    """JSON of an attribute, its expressions moved to `exprs`."""
    if isinstance(value, Mapping):
        return {k: _abstract(v, exprs) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_abstract(v, exprs) for v in value]
    if isinstance(value, tirx.IntImm):
        return int(value.value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (bool, int, float, str)):
        return value
    exprs.append(value)
    return f"${len(exprs) - 1}"


def decode_call(call: Call) -> tuple[str, list[InstructionOperand], Any, list[tir.Expr]]:
    """(opcode, operands, attributes as JSON values, the expressions that "$n" stand for) of a call."""
    args = list(call.args)
    operands = []
    at = 0
    while (role := str(args[at].value)) != "attrs":
        source = args[at + 1].args[0]
        rank = int(args[at + 2].value)
        extents = tuple(args[at + 3 : at + 3 + rank])
        strides = tuple(int(s.value) for s in args[at + 3 + rank : at + 3 + 2 * rank])
        operands.append(_operand(role, source, extents, strides))
        at += 3 + 2 * rank
    return call.op.name[len(PREFIX) :], operands, json.loads(str(args[at + 1].value)), args[at + 2 :]


def _operand(role: str, source: TensorLoad, extents: tuple[Any, ...], strides: tuple[int, ...]) -> InstructionOperand:
    return InstructionOperand(role, source.source, tuple(source.indices), extents, strides)
