"""Read an ONNX model and bring it to the form that the importer takes: static, folded, named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy.typing as npt
from onnx import ModelProto, inliner

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.check import (
    MOST_ELEMENTS,
    check_count,
    check_model,
    check_types,
    describe,
    elements,
    opset_of,
)
from dsa_compiler.frontend.control import is_choice, join_branches, resolve_control, take_branch
from dsa_compiler.frontend.converters import has_body, is_known
from dsa_compiler.frontend.fold import MOST_FOLDED, fold_constants, infer_shapes, infer_types
from dsa_compiler.frontend.inline import inline_functions
from dsa_compiler.frontend.microsoft import expand_microsoft
from dsa_compiler.frontend.read import Source, make_dense, read_model
from dsa_compiler.frontend.shapes import bind_shapes, bind_values, note_assumption, static_shape
from dsa_compiler.frontend.simplify import name_nodes, remove_identities, remove_unused

Shapes = Mapping[str, Sequence[int]]
Values = Mapping[str, npt.ArrayLike]

MOST_ROUNDS = 32


def load_model(
    source: Source, shapes: Shapes | None = None, batch: int | None = None, values: Values | None = None
) -> ModelProto:
    """Return the model of `source` with static shapes, folded constants and a name for each node.

    `shapes` gives input shapes by name, `batch` the value of symbolic leading dimensions (1 if absent); other symbolic
    dimensions have defaults (`frontend.shapes`). `values` gives inputs by name that become constants. The argument is
    not changed. Raises `UserError` for a file that is no ONNX model or whose graph is malformed.
    """
    model = read_model(source)
    for entry in model.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    check_model(model)
    make_dense(model)
    model = inline_functions(model)
    graph = model.graph
    initializers = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in initializers]
    del graph.input[:]
    graph.input.extend(inputs)
    name_nodes(graph)
    bind_values(model, values or {})
    bind_shapes(model, dict(shapes or {}), batch)
    expand_microsoft(model, infer_shapes)
    name_nodes(graph)
    model = _with_bodies(model)
    _resolve(model)
    model = _without_computed_branches(model)
    _check_values(model)
    return model


def _check_values(model: ModelProto) -> None:
    """Raise `UserError` for a node whose operands have the wrong types or whose result no memory holds."""
    values = [v for v in infer_types(model) if v.type.HasField("tensor_type")]
    types = {v.name: v.type.tensor_type.elem_type for v in values if v.type.tensor_type.elem_type}
    check_types(model, {**types, **{t.name: t.data_type for t in model.graph.initializer}})
    shapes = {v.name: static_shape(v) or () for v in values}
    constants = {t.name for t in model.graph.initializer}
    for node in model.graph.node:
        fixed = constants.issuperset(name for name in node.input if name)
        for name in node.output:
            shape = shapes.get(name, ())
            check_count(elements(shape), shape, describe(node), MOST_FOLDED if fixed else MOST_ELEMENTS)


def _with_bodies(model: ModelProto) -> ModelProto:
    """Return the model with ONNX's own definitions in place of operators that have no converter."""
    missing = {n.op_type for n in model.graph.node if n.domain == "" and not is_known(n)}
    defined = [("", name) for name in sorted(missing) if has_body(name, opset_of(model))]
    if not defined:
        return model
    for operator in defined:
        try:
            model = inliner.inline_selected_functions(model, [operator], inline_schema_functions=True)
        except RuntimeError:  # a body that depends on types which ONNX does not infer: the host runs the node as it is
            continue
    name_nodes(model.graph)
    return model


def _resolve(model: ModelProto) -> None:
    """Fold constants and resolve control flow until neither finds more, in place."""
    graph = model.graph
    for _ in range(MOST_ROUNDS):
        remove_identities(graph)
        fold_constants(model)
        if not any(n.op_type in ("If", "Loop", "Scan") for n in graph.node):
            break
        if not resolve_control(model, infer_shapes(model), opset_of(model)):
            break
        name_nodes(graph)
    remove_identities(graph)
    remove_unused(graph)


def _without_computed_branches(model: ModelProto) -> ModelProto:
    """Return the model without `If`: both branches of each, or the one that fits the shapes.

    It keeps an `If` whose branches fit but give results of different shapes.
    """
    for _ in range(MOST_ROUNDS):
        node = next((n for n in model.graph.node if n.op_type == "If"), None)
        if node is None:
            return model
        fitting = [(which, m) for which in ("then", "else") if (m := _with_branch(model, node.name, which)) is not None]
        if len(fitting) != 1:
            break
        which, model = fitting[0]
        note_assumption(model, f"If {node.name}: only its {which} branch fits the shapes, so it is always taken")
    return _with_choices(model)


def _copied(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _with_branch(model: ModelProto, name: str, which: str) -> ModelProto | None:
    """Return a copy of the model in which an `If` has become one branch, None if that cannot run."""
    taken = _copied(model)
    take_branch(taken, name, which)
    name_nodes(taken.graph)
    try:
        _resolve(taken)
        infer_shapes(taken, strict=True)
    except UserError:  # a branch that is not taken need not fit the shapes
        return None
    return taken


def _with_choices(model: ModelProto) -> ModelProto:
    """Return the model with both branches of every `If`, or as it is if results differ in shape."""
    joined = _copied(model)
    join_branches(joined)
    name_nodes(joined.graph)
    _resolve(joined)
    shapes = infer_shapes(joined)
    choices = [n for n in joined.graph.node if is_choice(n)]
    same = all(n.input[1] in shapes and shapes[n.input[1]] == shapes.get(n.input[2]) for n in choices)
    return joined if same and not any(n.op_type == "If" for n in joined.graph.node) else model
