"""Fuse: each layer becomes a function of its own, called from `main`; data movements stay in `main`.

A function carries the attributes `Primitive`, `dsac.kind` and `dsac.nodes` (ONNX nodes, in order). Constants of more
than one element are arguments of the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from dsa_compiler.frontend.importer import NODES
from dsa_compiler.graph.calls import is_constant, op_name, plain, shape_of
from dsa_compiler.graph.group import group_bindings
from dsa_compiler.graph.rewriter import JOINED, Rewriter, bindings_of, operands
from dsa_compiler.operators.table import OPERATORS

KIND = "dsac.kind"
MASTER = "dsac.master"
_KINDS = {
    "elementwise": "elementwise", "gather": "gather", "matmul": "matmul", "normalization": "norm",
    "pooling": "pool", "reduction": "reduce", "softmax": "softmax",
}  # fmt: skip


def fuse(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod` with its layers as functions."""
    return _Fuse(mod).run()


def layer_kind(call: relax.Call) -> str:
    """Return the kind of a layer from its master's call."""
    name = op_name(call)
    if name == "nn.conv2d":
        groups, channels = plain(call.attrs.groups), shape_of(call.args[0])[-1]
        return "depthwise" if groups > 1 and groups == channels else "conv2d"
    operator = OPERATORS.get(name)
    return _KINDS.get(operator.category, "movement") if operator else "other"


class _Fuse(Rewriter):
    """`_live_bindings` groups; the last binding of a group becomes the call, the others vanish."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._groups: dict[Any, list[Any]] = {}  # last variable -> master, members
        self._inner: set[Any] = set()

    def _live_bindings(self) -> list[Any]:
        live = super()._live_bindings()
        results = {v for v in operands(self.main.body.body) if isinstance(v, relax.Var)}
        aliases = {b.var: b.value for b in bindings_of(self.main) if not isinstance(b.value, relax.Call)}
        for var in list(results):
            if var in aliases:
                results |= {v for v in operands(aliases[var]) if isinstance(v, relax.Var)}
        for group in group_bindings(live, results):
            members = [live[i] for i in group.members]
            self._groups[members[-1].var] = [live[group.master], *members]
            self._inner |= {b.var for b in members[:-1]}
        return live

    def _visit(self, binding: Any) -> None:
        if binding.var in self._inner:
            return
        if binding.var not in self._groups:
            super()._visit(binding)
            return
        master, *members = self._groups[binding.var]
        origins = [str(self._old_nodes.get(b.var.name, "")) for b in members]
        nodes = list(dict.fromkeys(n for origin in origins for n in origin.split(JOINED) if n))
        self._node = str(self._old_nodes.get(master.var.name, "")) or (nodes[0] if nodes else "")
        function, arguments = _function(master, members, nodes, self._old_nodes)
        name = "fused_" + "_".join(op_name(b.value).removeprefix("nn.") for b in members[:4])
        callee = self.bb.add_func(function, name)
        call = relax.Call(callee, [self.resolve(a) for a in arguments])
        self._set(binding.var, self.emit(call, name=binding.var.name))


def _function(
    master: Any, members: Sequence[Any], nodes: Sequence[str], origins: dict[str, Any]
) -> tuple[relax.Function, list[Any]]:
    """Return the function of a group and the expressions of `main` that are its arguments."""
    inside = {b.var for b in members}
    params: list[tuple[Any, Any]] = []  # (argument, parameter)
    known: dict[Any, Any] = {}

    def parameter(argument: Any) -> Any:
        if isinstance(argument, relax.Var) and argument in known:
            return known[argument]
        if is_constant(argument) and not shape_of(argument):
            return argument
        name = argument.name if isinstance(argument, relax.Var) else f"c{len(params)}"
        param = relax.Var(name, argument.ty)
        params.append((argument, param))
        if isinstance(argument, relax.Var):
            known[argument] = param
        return param

    def inner(argument: Any) -> Any:
        if isinstance(argument, relax.Tuple):
            return relax.Tuple([inner(f) for f in argument.fields])
        if isinstance(argument, relax.Var) and argument in inside:
            return known[argument]
        return parameter(argument) if isinstance(argument.ty, relax.TensorType) else argument

    bindings = []
    for b in members:
        var = relax.DataflowVar(b.var.name, b.var.ty)
        call = relax.Call(b.value.op, [inner(a) for a in b.value.args], b.value.attrs, b.value.ty_args)
        relax.expr._update_type(call, b.var.ty)
        bindings.append(relax.VarBinding(var, call))
        known[b.var] = var
    result = relax.Var("result", members[-1].var.ty)
    bindings.append(relax.VarBinding(result, known[members[-1].var]))
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], result)
    attrs = {
        "Primitive": True,
        KIND: layer_kind(master.value),
        MASTER: next(i for i, b in enumerate(members) if b.var.same_as(master.var)),
        NODES: {b.var.name: origins.get(b.var.name, "") for b in members},
    }
    function = relax.Function([p for _, p in params], body, result.ty, attrs=tvm.ir.make_node("ir.DictAttrs", **attrs))
    return function, [a for a, _ in params]
