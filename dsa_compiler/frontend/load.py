"""Read an ONNX model and bring it to the form that the importer takes: static, folded, named."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, inliner

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.control import is_choice, join_branches, resolve_control, take_branch
from dsa_compiler.frontend.converters import has_body, is_known
from dsa_compiler.frontend.fold import fold_constants, infer_shapes
from dsa_compiler.frontend.inline import inline_functions
from dsa_compiler.frontend.shapes import bind_shapes
from dsa_compiler.frontend.simplify import name_nodes, remove_identities, remove_unused

Source: TypeAlias = str | os.PathLike[str] | bytes | ModelProto
Shapes = Mapping[str, Sequence[int]]

OLDEST_OPSET = 7
MOST_ROUNDS = 32


def load_model(source: Source, shapes: Shapes | None = None, batch: int | None = None) -> ModelProto:
    """Return the model of `source` with static shapes, folded constants and a name for each node.

    `shapes` gives input shapes by name, `batch` the value of symbolic leading dimensions (1 if absent);
    other symbolic dimensions must be in `shapes`. The argument is not changed. Raises `UserError` for
    a file that is no ONNX model or whose graph is malformed.
    """
    model = read_model(source)
    for entry in model.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    check_graph(model)
    model = inline_functions(model)
    graph = model.graph
    initializers = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in initializers]
    del graph.input[:]
    graph.input.extend(inputs)
    name_nodes(graph)
    bind_shapes(model, dict(shapes or {}), batch)
    model = _with_bodies(model)
    _resolve(model)
    return _without_computed_branches(model)


def _with_bodies(model: ModelProto) -> ModelProto:
    """Return the model with ONNX's own definitions in place of operators that have no converter."""
    missing = {n.op_type for n in model.graph.node if n.domain == "" and not is_known(n)}
    defined = [("", name) for name in sorted(missing) if has_body(name, opset_of(model))]
    if not defined:
        return model
    model = inliner.inline_selected_functions(model, defined, inline_schema_functions=True)
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
        fitting = [m for which in ("then", "else") if (m := _with_branch(model, node.name, which)) is not None]
        if len(fitting) != 1:
            break
        model = fitting[0]
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


def read_model(source: Source) -> ModelProto:
    """Parse `source`: a path, the bytes of a file, or a model, which is copied."""
    if isinstance(source, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(source)
        return copy
    if isinstance(source, bytes):
        return _parse(source, "the bytes given")
    path = Path(source)
    if not path.is_file():
        raise UserError("no such file", where=str(path), action="give the path of an ONNX file")
    model = _parse(path.read_bytes(), str(path))
    _load_external_data(model, path)
    return model


def _parse(data: bytes, where: str) -> ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise UserError("not an ONNX model, or truncated", where=where, action="check the file") from error
    if not model.graph.node and not model.graph.output:
        raise UserError("the file holds no graph", where=where, action="check that it is an ONNX model")
    return model


def _load_external_data(model: ModelProto, path: Path) -> None:
    """Read tensors kept in files beside the model; other places are refused."""
    folder = path.parent.resolve()
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder):
            raise UserError(
                f"external data of {tensor.name!r} lies outside the model's folder: {location!r}",
                where=str(path), action="move it beside the model",
            )  # fmt: skip
        if not target.is_file():
            raise UserError(
                f"external data of {tensor.name!r} is missing: {location!r}",
                where=str(path), action="put the file beside the model",
            )  # fmt: skip
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def opset_of(model: ModelProto) -> int:
    """Return the version of the default operator set."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return int(max(versions)) if versions else 1


def check_graph(model: ModelProto) -> None:
    """Refuse what no compiler can make sense of: old opsets, duplicate names, unknown values, cycles."""
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise UserError(
            f"operator set {opset} is older than {OLDEST_OPSET}", where="model",
            action="convert it with onnx.version_converter",
        )  # fmt: skip
    graph = model.graph
    known = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    known |= {i.values.name for i in graph.sparse_initializer}
    produced = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        where = f"{node.op_type} {node.name or (node.output[0] if node.output else '')}"
        for name in node.input:
            if name and name not in known:
                problem = "is used before it is computed (cyclic or unsorted graph)" if name in produced else (
                    "is neither an input, an initializer nor computed")  # fmt: skip
                raise UserError(f"value {name!r} {problem}", where=where, action="repair the model")
        for name in node.output:
            if name and name in known:
                raise UserError(f"value {name!r} is computed twice", where=where, action="repair the model")
        known.update(name for name in node.output if name)
    for output in graph.output:
        if output.name not in known:
            raise UserError(f"output {output.name!r} is never computed", where="model", action="repair the model")
