"""Forward rewriting of the straight-line `main` of a Relax module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import tvm
from tvm import relax

from dsa_compiler.frontend.importer import NODES, binding_name
from dsa_compiler.graph.calls import is_constant

JOINED = "\n"  # between the names of several ONNX nodes of one binding, the first the one that it computes


def bindings_of(main: relax.Function) -> Iterator[Any]:
    """Yield the bindings of a function in order."""
    for block in main.body.blocks:
        yield from block.bindings[:]  # a slice is a list, several times faster to go through than TVM's array


def operands(expr: Any) -> list[Any]:
    """Return the leaf operands of a call, a tuple or an item of a tuple."""
    if isinstance(expr, relax.Call):
        fields = expr.args[:]
    elif isinstance(expr, relax.Tuple):
        fields = expr.fields[:]
    elif isinstance(expr, relax.TupleGetItem):
        return operands(expr.tuple_value)
    else:
        return [expr]
    if not any(isinstance(field, relax.Tuple) for field in fields):
        return fields
    return [leaf for field in fields for leaf in (operands(field) if isinstance(field, relax.Tuple) else (field,))]


def _variables(expr: Any) -> list[Any]:
    return [v for v in operands(expr) if isinstance(v, relax.Var)]


class Rewriter:
    """Rebuilds `main` binding by binding; a subclass says in `rewrite` what becomes of a call.

    Dead bindings are dropped. Every new binding carries the ONNX node of the binding that it comes from:
    its name is made of the node's, and the table `dsac.nodes` of `main` is rebuilt. An instance serves one
    module.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.main = mod["main"]
        self.bb = relax.BlockBuilder()
        self.uses: Counter[Any] = Counter()
        self.users: dict[Any, list[Any]] = {}
        self._env: dict[Any, Any] = {}
        self._calls: dict[Any, Any] = {}
        self._new_uses: Counter[Any] = Counter()
        self._bindings: list[Any] = []
        self._reads: list[list[Any]] = []  # for each new binding, the variables that it reads
        self._old_reads: dict[Any, list[Any]] = {}  # the same of old ones, by variable
        self._names: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._old_nodes = dict(self.main.attrs[NODES].items()) if self.main.attrs and NODES in self.main.attrs else {}
        self._new_nodes: dict[str, str] = {}
        self._node = ""

    def rewrite(self, call: relax.Call, old: Any) -> Any:
        """Return what replaces `call`, whose operands are new; `old` is the variable it was bound to."""
        return call

    def run(self) -> tvm.IRModule:
        """Return the rewritten module."""
        live = self._live_bindings()
        params = list(self.main.params)
        self._env.update((p, p) for p in params)
        self._names.update(v.name for v in params)
        self._names.update(b.var.name for b in live)
        for binding in live:
            self._visit(binding)
        result = self.bb.normalize(self.finish(self.main.body.body))
        var = relax.Var(self._unique("result"), result.ty)
        self._bindings.append(relax.VarBinding(var, result))
        self._reads.append(_variables(result))
        body = relax.SeqExpr([relax.DataflowBlock(self._live(var))], var)
        attrs = {k: v for k, v in self.main.attrs.items() if k != NODES} if self.main.attrs else {}
        function = relax.Function(params, body, result.ty)
        mod = self.bb.get()
        names = {b.var.name for b in bindings_of(function)}
        nodes = {k: v for k, v in self._new_nodes.items() if k in names}
        self._keep_origins(live, nodes)
        mod["main"] = function.with_attrs({**attrs, "global_symbol": "main", NODES: nodes})
        return mod

    def _keep_origins(self, live: list[Any], nodes: dict[str, str]) -> None:
        """Give the nodes that no binding carries any more to the binding that has taken their place, in `nodes`."""
        kept = {n for origin in nodes.values() for n in origin.split(JOINED)}
        for binding in reversed(live):
            origin = str(self._old_nodes.get(binding.var.name, ""))
            lost = [n for n in origin.split(JOINED) if n and n not in kept]
            heir = self._heir(binding, nodes) if lost else None
            if heir is not None:
                nodes[heir] = JOINED.join([nodes[heir], *lost])
                kept.update(lost)

    def _heir(self, binding: Any, nodes: dict[str, str]) -> str | None:
        """Return the name of the new binding nearest behind an old one that belongs to a node."""
        pending, seen = [binding], set()
        while pending:
            current = pending.pop(0)
            new = self._env.get(current.var)
            if isinstance(new, relax.Var) and new.name in nodes:
                return str(new.name)
            for user in self.users.get(current.var, ()):
                if user.var not in seen:
                    seen.add(user.var)
                    pending.append(user)
        return None

    def _unique(self, stem: str) -> str:
        """Return a name for a variable that none has."""
        name = stem
        while name in self._names:
            self._counts[stem] += 1
            name = f"{stem}_{self._counts[stem]}"
        self._names.add(name)
        return name

    def _live(self, last: Any) -> list[Any]:
        """Return the new bindings that `last` depends on, in order."""
        used = {last}
        live = []
        for binding, reads in zip(reversed(self._bindings), reversed(self._reads), strict=True):
            if binding.var in used:
                live.append(binding)
                used.update(reads)
        live.reverse()
        return live

    def finish(self, body: Any) -> Any:
        """Return the new result of the function."""
        return self.resolve(body)

    def resolve(self, expr: Any) -> Any:
        """Return the new expression of an old one."""
        if isinstance(expr, relax.Var):
            return self._env[expr]
        if isinstance(expr, relax.Tuple):
            fields = expr.fields[:]
            resolved = [self.resolve(f) for f in fields]
            same = all(a is b or a.same_as(b) for a, b in zip(resolved, fields, strict=True))
            return expr if same else relax.Tuple(resolved)
        if isinstance(expr, relax.TupleGetItem):
            source = self.resolve(expr.tuple_value)
            if isinstance(source, relax.Tuple):
                return source[expr.index]
            return self.emit(relax.TupleGetItem(source, expr.index))
        return expr

    def emit(self, expr: Any, node: str | None = None, name: str | None = None) -> Any:
        """Bind `expr` under a name made of the current ONNX node's (or `node`'s) and return its variable.

        `name` is that of the old variable that the new one replaces.
        """
        if isinstance(expr, relax.Var) or is_constant(expr):
            return expr
        origin = node or self._node
        if not isinstance(getattr(expr, "ty", None), relax.TensorType | relax.TupleType):
            expr = self.bb.normalize(expr)
        unique = name or self._unique(binding_name(origin.split(JOINED)[0]) if origin else "lv")
        var = relax.DataflowVar(unique, expr.ty)
        self._bindings.append(relax.VarBinding(var, expr))
        self._reads.append(_variables(expr))
        self._calls[var] = expr
        if origin:
            self._new_nodes[var.name] = origin
        return var

    def producer(self, expr: Any) -> Any:
        """Return the call that a new variable was bound to, else None."""
        return self._calls.get(expr) if isinstance(expr, relax.Var) else None

    def use_count(self, var: Any) -> int:
        """Return how often a new variable is used by what stood in the old module (at least 1)."""
        return max(1, self._new_uses[var])

    def sole_producer(self, expr: Any) -> Any:
        """Return the call that a new variable was bound to if it has one use, else None."""
        call = self.producer(expr)
        return call if call is not None and self.use_count(expr) == 1 else None

    def node_of(self, var: Any) -> str:
        """Return the ONNX node of a new variable, "" if none."""
        return self._new_nodes.get(var.name, "") if isinstance(var, relax.Var) else ""

    def _visit(self, binding: Any) -> None:
        var, value = binding.var, binding.value
        self._node = str(self._old_nodes.get(var.name, ""))
        if not isinstance(value, relax.Call):
            self._set(var, self.resolve(value))
            return
        old_args = value.args[:]
        args = [self.resolve(a) for a in old_args]
        same = all(a is b or a.same_as(b) for a, b in zip(args, old_args, strict=True))
        call = value if same else relax.Call(value.op, args, value.attrs, value.ty_args)
        result = self.rewrite(call, var)
        if result is value:
            self._keep(binding)
            return
        self._set(var, self.emit(result, name=var.name) if isinstance(result, relax.Call) else result)

    def _keep(self, binding: Any) -> None:
        """Take over a binding that nothing changes."""
        var = binding.var
        self._bindings.append(binding)
        self._reads.append(self._old_reads[var])
        self._calls[var] = binding.value
        if self._node:
            self._new_nodes[var.name] = self._node
        self._set(var, var)

    def _set(self, old: Any, new: Any) -> None:
        self._env[old] = new
        if isinstance(new, relax.Var):
            self._new_uses[new] += self.uses[old]

    def _live_bindings(self) -> list[Any]:
        """Return the bindings that the result depends on, in order; count the uses of every variable."""
        bindings = list(bindings_of(self.main))
        one = {v: v for v in (*self.main.params, *(b.var for b in bindings))}  # the same object wherever it is read
        used = set(_variables(self.main.body.body))
        self.uses.update(_variables(self.main.body.body))
        live = []
        for binding in reversed(bindings):
            var = one[binding.var]
            if var not in used:
                continue
            live.append(binding)
            self._old_reads[var] = reads = [one.get(v, v) for v in _variables(binding.value)]
            for operand in reads:
                used.add(operand)
                self.uses[operand] += 1
                self.users.setdefault(operand, []).append(binding)
        live.reverse()
        self._settle_aliases(live)
        return live

    def _settle_aliases(self, live: list[Any]) -> None:
        """Count the uses of a plain alias (such as the output binding) as uses of what it names."""
        for binding in reversed(live):
            if isinstance(binding.value, relax.Var):
                self.uses[binding.value] += self.uses[binding.var] - 1
                users = [u for u in self.users.get(binding.value, []) if u is not binding]
                self.users[binding.value] = users + self.users.get(binding.var, [])
