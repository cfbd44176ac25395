"""Extraction: level 1 in Relax to a `LayerGraph`.

Data movements of `main` become views where they can: of the consumer (a slice, a permutation, a split axis), or of
the producer, which then writes straight into a part of another tensor (a concatenation, merged heads, interleaved
phases). What neither side can express becomes a layer of kind movement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from dsa_compiler.frontend.host import facts_of, host_operands, is_host
from dsa_compiler.frontend.importer import INPUTS, NODES, OUTPUTS, binding_name
from dsa_compiler.graph.calls import constant_of, describe, dtype_of, is_constant, op_name, shape_of
from dsa_compiler.graph.fuse import KIND, MASTER, layer_kind
from dsa_compiler.graph.layers import Arg, Layer, LayerGraph, OpCall, Role, Tensor
from dsa_compiler.graph.products import padded_attributes, paddings, with_zero_point
from dsa_compiler.graph.rewriter import JOINED, bindings_of
from dsa_compiler.graph.storage import (
    Rule,
    Storage,
    any_view,
    contiguous,
    innermost,
    matmul_left,
    matmul_right,
    whole_rows,
)
from dsa_compiler.graph.views import Lazy, expand_slice
from dsa_compiler.operators.table import is_elementwise

MOVES = frozenset({"reshape", "permute_dims", "broadcast_to", "strided_slice"})


def extract_layers(mod: tvm.IRModule) -> LayerGraph:
    """Return the layers of `mod`, which `optimize` made."""
    return _Extraction(mod).graph()


class _Extraction:
    def __init__(self, mod: tvm.IRModule) -> None:
        self._mod = mod
        self._main = mod["main"]
        self._origins = dict(self._main.attrs[NODES].items())
        self._tensors: dict[str, Tensor] = {}
        self._values: dict[Any, Lazy] = {}
        self._storage = Storage(self._tensors)
        self._drafts: list[tuple[Layer, list[Lazy], list[Lazy]]] = []
        self._pads = paddings(mod)
        self._taken: set[str] = set()
        self._results: dict[Any, list[Lazy]] = {}  # of host steps with several

    def graph(self) -> LayerGraph:
        """Walk `main` and return the layers with their final views."""
        inputs = [str(n) for n in self._main.attrs[INPUTS]]
        for param, name in zip(self._main.params, inputs, strict=True):
            self._values[param] = self._tensor(name, param, "input")
        for binding in bindings_of(self._main):
            self._visit(binding)
        outputs = [str(n) for n in self._main.attrs[OUTPUTS]]
        body = self._main.body.body
        aliased = {b.var: b.value for b in bindings_of(self._main) if isinstance(b.value, relax.Tuple)}
        body = aliased.get(body, body) if isinstance(body, relax.Var) else body
        results = list(body.fields) if isinstance(body, relax.Tuple) else [body]
        for name, result in zip(outputs, results, strict=True):
            self._output(name, result)
        return self._finished(tuple(inputs), tuple(outputs))

    def _finished(self, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> LayerGraph:
        layers = tuple(
            replace(
                layer, inputs=tuple(self._storage.view(v) for v in views), output=self._storage.view(written[0]),
                more=tuple(self._storage.view(v) for v in written[1:]),
            )
            for layer, views, written in self._drafts
        )  # fmt: skip
        used = {v.tensor for layer in layers for v in (*layer.inputs, *layer.outputs)} | set(inputs) | set(outputs)
        tensors = {n: replace(t, dense=self._storage.is_dense(t)) for n, t in self._tensors.items() if n in used}
        return LayerGraph(tensors, layers, inputs, outputs)

    def _tensor(self, name: str, like: Any, role: Role, shape: Sequence[int] | None = None) -> Lazy:
        """Add a tensor of the dtype (and shape) of expression `like` under a name made unique."""
        extents = tuple(shape_of(like) if shape is None else shape)
        unique, n = name, 1
        while unique in self._tensors:
            unique, n = f"{name}_{n}", n + 1
        value = constant_of(like)
        self._tensors[unique] = Tensor(unique, extents, dtype_of(like), role, value)
        return Lazy(unique, extents)

    def _visit(self, binding: Any) -> None:
        var, value = binding.var, binding.value
        if isinstance(value, relax.Var):
            self._values[var] = self._values[value]
        elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
            self._layer(var, value)
        elif is_host(value):
            self._host(var, value)
        elif isinstance(value, relax.TupleGetItem):
            self._values[var] = self._results[value.tuple_value][value.index]
        elif var in self._pads:
            return
        elif op_name(value) in MOVES:
            self._values[var] = self._moved(var, value)
        elif op_name(value) == "concat":
            self._concat(var, value)
        elif isinstance(value, relax.Call):
            self._movement(var, value)
        elif is_constant(value):
            self._values[var] = self._value(value, var)

    def _value(self, expr: Any, var: Any) -> Lazy:
        """Return the value of an operand; constants become tensors named after the user's node."""
        if isinstance(expr, relax.Var):
            return self._values[expr]
        return self._tensor(f"{var.name}.const", expr, "constant")

    def _node(self, var: Any) -> str:
        return self._all_nodes(var)[0]

    def _all_nodes(self, var: Any) -> tuple[str, ...]:
        """Return the ONNX nodes of a variable, the one that it computes first."""
        return tuple(str(self._origins.get(var.name, "")).split(JOINED))

    def _moved(self, var: Any, call: relax.Call) -> Lazy:
        """Return the value of a data movement, materialised if no view expresses it."""
        source = self._value(call.args[0], var)
        a = describe(call).attrs
        name = op_name(call)
        if name == "strided_slice" and any(s < 0 for s in a.get("strides") or ()):
            return self._movement(var, call)
        kind, key = {"reshape": ("reshape", "shape"), "permute_dims": ("permute", "axes"),
                     "broadcast_to": ("broadcast", "shape"), "strided_slice": ("slice", "")}[name]  # fmt: skip
        args = a[key] if key else expand_slice(source.shape, a)
        moved = source.then(kind, args)
        return moved if self._storage.possible(moved) else self._materialised(moved, source, var)

    def _materialised(self, value: Lazy, readable: Lazy, var: Any) -> Lazy:
        """Return a tensor that holds `value`, written by its producer if it can be, else copied.

        `readable` is `value`, or the value one step before it that a view expresses.
        """
        like = self._tensors[value.tensor]
        if readable is not value:
            placed = self._placed_permuted(value, var, like)
            if placed is not None:
                return placed
        target = self._activation(var.name, like, value.shape)
        if self._storage.place(value, target):
            return target
        out = target
        if readable is not value:
            out = target.then("reshape", readable.shape)
        self._copy(var, readable, out, like.dtype)
        return target

    def _placed_permuted(self, value: Lazy, var: Any, like: Tensor) -> Lazy | None:
        """Return `value` as a permutation of a new tensor that its producer can write; None if there is none.

        Which axis is innermost in the tensor is free: the producer needs its own innermost axis there.
        """
        rank = len(value.shape)
        for last in reversed(range(rank)):
            order = [a for a in range(rank) if a != last] + [last]
            target = self._activation(var.name, like, tuple(value.shape[a] for a in order))
            seen = target.then("permute", [order.index(a) for a in range(rank)])
            if self._storage.place(value, seen):
                return seen
            del self._tensors[target.tensor]
        return None

    def _activation(self, name: str, like: Tensor, shape: tuple[int, ...]) -> Lazy:
        unique, n = name, 1
        while unique in self._tensors:
            unique, n = f"{name}_{n}", n + 1
        self._tensors[unique] = Tensor(unique, shape, like.dtype, "activation")
        return Lazy(unique, shape)

    def _copy(self, var: Any, source: Lazy, target: Lazy, dtype: str) -> None:
        node = self._node(var)
        call = OpCall("copy", (("input", 0),), {}, source.shape, dtype, node)
        self._draft(f"{var.name}.copy", "movement", (call,), 0, [source], [any_view], target, (node,))

    def _draft(
        self, name: str, kind: Any, calls: tuple[OpCall, ...], master: int, inputs: list[Lazy],
        rules: list[Rule], output: Lazy, nodes: tuple[str, ...],
    ) -> None:  # fmt: skip
        unique = self._layer_name(name)
        for value, rule in zip(inputs, rules, strict=True):
            self._storage.use(value, rule)
        self._storage.use(output, any_view if kind == "movement" else innermost)
        layer = Layer(unique, kind, calls, master, (), self._storage.view(output), tuple(n for n in nodes if n))
        self._drafts.append((layer, inputs, [output]))

    def _host(self, var: Any, call: relax.Call) -> None:
        """Add the layer of a host step; operands and results lie dense and in order."""
        facts = facts_of(call)
        inputs = [self._contiguous(self._value(x, var), var) for x in host_operands(call)]
        types = list(var.ty.fields) if isinstance(var.ty, relax.TupleType) else [var.ty]
        written = []
        for ty in types:
            like = Tensor("", (), str(ty.dtype), "activation")
            target = self._activation(var.name, like, tuple(int(n) for n in ty.shape.values))
            self._storage.make_dense(target)
            written.append(target)
        for value in (*inputs, *written):
            self._storage.use(value, contiguous)
        attrs = {"model": facts.model, "reason": facts.reason, "operators": facts.operators}
        args: tuple[Arg, ...] = tuple(("input", i) for i in range(len(inputs)))
        step = OpCall("host", args, attrs, written[0].shape, str(types[0].dtype), self._node(var))
        first = self._storage.view(written[0])
        layer = Layer(self._layer_name(var.name), "host", (step,), 0, (), first, facts.nodes)
        self._drafts.append((layer, inputs, written))
        self._results[var] = written
        if len(written) == 1:
            self._values[var] = written[0]

    def _contiguous(self, value: Lazy, var: Any) -> Lazy:
        """Return `value` where it lies dense and in order, copied there if need be."""
        if value.invertible() and self._storage.possible(value):
            self._storage.make_dense(value)
            if contiguous(self._storage.view(value)):
                return value
        like = self._tensors[value.tensor]
        target = self._activation(f"{var.name}.operand", like, value.shape)
        self._storage.make_dense(target)
        self._copy(var, value, target, like.dtype)
        return target

    def _layer_name(self, name: str) -> str:
        """Return a name that no layer has."""
        unique, n = name, 1
        while unique in self._taken:
            unique, n = f"{name}_{n}", n + 1
        self._taken.add(unique)
        return unique

    def _movement(self, var: Any, call: relax.Call) -> Lazy:
        """Add a layer for a data movement that is no view, such as padding."""
        a = describe(call)
        sources = [self._readable(self._value(x, var), innermost, var) for x in a.inputs]
        target = self._tensor(var.name, var, "activation")
        args: tuple[Arg, ...] = tuple(("input", i) for i in range(len(sources)))
        op = OpCall(a.op, args, a.attrs, shape_of(var), dtype_of(var), self._node(var))
        kind = layer_kind(call)
        self._draft(var.name, kind, (op,), 0, sources, [innermost] * len(sources), target, self._all_nodes(var))
        self._values[var] = target
        return target

    def _concat(self, var: Any, call: relax.Call) -> None:
        """Let the producers of the operands write their parts; copy the parts that cannot be."""
        axis = int(call.attrs.axis)
        target = self._tensor(var.name, var, "activation")
        begin = 0
        for operand in call.args[0].fields:
            value = self._value(operand, var)
            part = [n for extent in value.shape for n in (0, extent, 1)]
            part[3 * axis] = begin
            begin += value.shape[axis]
            region = target.then("slice", part)
            if not self._storage.place(value, region):
                self._copy(var, value, region, dtype_of(var))
        self._values[var] = target

    def _output(self, name: str, result: Any) -> None:
        """Let the producer of a result write it in the model's layout; copy it if it cannot."""
        value = self._value(result, result) if isinstance(result, relax.Var) else self._tensor(
            f"{name}.const", result, "constant")  # fmt: skip
        dtype = self._tensors[value.tensor].dtype
        if name in self._tensors and self._tensors[name].role != "input":
            self._rename(name)
            value = self._values[result]
        self._tensors[name] = Tensor(name, value.shape, dtype, "output")
        target = Lazy(name, value.shape)
        if self._storage.place(value, target):
            return
        owner = result if isinstance(result, relax.Var) else relax.Var(binding_name(name))
        self._copy(owner, value, target, dtype)

    def _rename(self, name: str) -> None:
        """Free the name of an activation for a result of the model."""
        fresh, n = f"{name}.inner", 1
        while fresh in self._tensors:
            fresh, n = f"{name}.inner_{n}", n + 1
        self._tensors[fresh] = replace(self._tensors.pop(name), name=fresh)
        self._storage.rename(name, fresh)

        def renamed(values: list[Lazy]) -> list[Lazy]:
            return [replace(v, tensor=fresh) if v.tensor == name else v for v in values]

        self._values = {k: renamed([v])[0] for k, v in self._values.items()}
        self._results = {k: renamed(values) for k, values in self._results.items()}
        self._drafts = [(layer, renamed(views), renamed(written)) for layer, views, written in self._drafts]

    def _readable(self, value: Lazy, rule: Rule, var: Any) -> Lazy:
        """Return `value`, or a copy of it if `rule` does not accept its view."""
        if rule(self._storage.view(value)):
            return value
        held = next((k for k, v in self._values.items() if v == value), None)
        copied = self._materialised(value, value, var)
        if held is not None:
            self._values = {k: copied if v == value else v for k, v in self._values.items()}
        return copied

    def _layer(self, var: Any, call: relax.Call) -> None:
        """Add the layer of a fused function."""
        function = self._mod[call.op]
        table = function.attrs[NODES]
        pairs = list(zip(function.params, call.args, strict=True))
        pads = {p: self._pads[a] for p, a in pairs if isinstance(a, relax.Var) and a in self._pads}
        zeros = _zero_points(function, call)
        arguments = {
            p: self._value(pads[p].args[0] if p in pads else zeros[p][0] if p in zeros else a, var)
            for p, a in pairs
        }
        bindings = [b for b in bindings_of(function) if isinstance(b.value, relax.Call)]
        places = {b.var: i for i, b in enumerate(bindings)}
        inputs: list[Lazy] = []
        rules: list[Rule] = []
        calls = []
        origins = [str(table[b.var.name]).split(JOINED) for b in bindings]
        for b, origin in zip(bindings, origins, strict=True):
            a = describe(b.value)
            args = tuple(
                self._arg(x, arguments, places, (inputs, rules), _rule(a.op, i), _target(a.op, b.var), var)
                for i, x in enumerate(a.inputs)
            )
            attrs = dict(a.attrs)
            if a.op in ("nn.conv2d", "matmul"):
                attrs |= padded_attributes(attrs, pads[a.inputs[0]]) if a.inputs[0] in pads else {}
                attrs |= {"zero_b": zeros[a.inputs[1]][1]} if a.inputs[1] in zeros else {}
            calls.append(OpCall(a.op, args, attrs, shape_of(b.var), dtype_of(b.var), origin[0]))
        target = self._tensor(var.name, var, "activation")
        nodes = tuple(dict.fromkeys(n for origin in origins for n in origin if n))
        master = int(function.attrs[MASTER])
        self._draft(var.name, str(function.attrs[KIND]), tuple(calls), master, inputs, rules, target, nodes)
        self._values[var] = target

    def _arg(
        self, expr: Any, arguments: dict[Any, Lazy], places: dict[Any, int],
        inputs: tuple[list[Lazy], list[Rule]], rule: Rule, shape: tuple[int, ...] | None, var: Any,
    ) -> Arg:  # fmt: skip
        """Return an operand of a call; tensors are added to `inputs`, broadcast to `shape` if one is given."""
        if expr in places:
            return ("call", places[expr])
        if expr not in arguments:
            return ("const", _number(expr))
        value = arguments[expr]
        if shape is not None and value.shape != shape:
            value = value.then("broadcast", shape)
        value = self._readable(value, rule, var)
        for i, known in enumerate(inputs[0]):
            if known == value:
                inputs[1][i] = _both(inputs[1][i], rule)
                return ("input", i)
        inputs[0].append(value)
        inputs[1].append(rule)
        return ("input", len(inputs[0]) - 1)


def _zero_points(function: relax.Function, call: relax.Call) -> dict[Any, tuple[Any, int]]:
    """Return (8-bit weights, zero point) by parameter, for parameters that are 9-bit weights of a product."""
    arguments = dict(zip(function.params, call.args, strict=True))
    found = {}
    for b in bindings_of(function):
        if op_name(b.value) in ("nn.conv2d", "matmul") and b.value.args[1] in arguments:
            narrowed = with_zero_point(b.value, arguments[b.value.args[1]])
            if narrowed is not None:
                found[b.value.args[1]] = narrowed
    return found


def _both(first: Rule, second: Rule) -> Rule:
    return first if first is second else lambda view: first(view) and second(view)


def _rule(op: str, index: int) -> Rule:
    """Return what a layer asks of the view of operand `index` of operator `op`."""
    if op == "matmul":
        return matmul_left if index == 0 else matmul_right
    if op == "take":
        return whole_rows if index == 0 else any_view
    return innermost


def _target(op: str, var: Any) -> tuple[int, ...] | None:
    """Return the shape that operands of an elementwise call are broadcast to."""
    return shape_of(var) if is_elementwise(op) else None


def _number(expr: Any) -> float | int | bool:
    value = constant_of(expr)
    assert value is not None and value.size == 1  # scalars alone stay inside a function
    item: float | int | bool = np.asarray(value).reshape(-1)[0].item()
    return item
