"""Refusal of models that no compiler can make sense of, before anything else looks at them.

What is checked here need not be checked again: versions, names, the order of nodes, how many inputs and results a node
has, which attributes and of which type, what a tensor holds, what a branch or a loop's body takes and returns.
Operators that ONNX does not define (com.microsoft, retired ones) are left to their converters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, defs, helper

from dsa_compiler.errors import UserError

OLDEST_OPSET = 7
MOST_ELEMENTS = 2**36
"""A tensor of more elements is refused: no part has that much memory."""

_REPAIR = "repair the model"
_TENSOR_TYPES = frozenset(helper.get_all_tensor_dtypes())
_TYPE_NAMES = {number: TensorProto.DataType.Name(number).lower() for number in _TENSOR_TYPES}
_BITS = {
    **dict.fromkeys((TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1), 4),
    **dict.fromkeys((getattr(TensorProto, name, -1) for name in ("INT2", "UINT2")), 2),  # absent from older onnx
}
_MESSAGES = {
    AttributeProto.TENSOR: "t", AttributeProto.GRAPH: "g", AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
}  # fmt: skip


def opset_of(model: ModelProto) -> int:
    """Return the version of the default operator set."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return int(max(versions)) if versions else 1


def check_model(model: ModelProto) -> None:
    """Raise `UserError`, naming the node, value or tensor, for a model that is not well formed."""
    _check_versions(model)
    versions = {"": opset_of(model), **{o.domain: int(o.version) for o in model.opset_import if o.domain}}
    local = {(f.domain, f.name) for f in model.functions}
    for function in model.functions:
        where = f"function {function.name}"
        own = {"": versions[""], **{o.domain: int(o.version) for o in function.opset_import}}
        _check_names(function.input, "input", where)
        _check_nodes(function.node, set(function.input), own, local)
    _check_graph(model.graph, set(), versions, local, "model")
    for value in model.graph.input:
        check_input(value)
    for value in model.graph.output:
        kind = value.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            raise UserError(f"it is no tensor but a {kind.removesuffix('_type')}", where=f"output {value.name}",
                            action="end the model where its results are tensors")  # fmt: skip
        dtype = value.type.tensor_type.elem_type
        if dtype not in (TensorProto.UNDEFINED, *_TENSOR_TYPES):
            raise UserError(f"it has the unknown element type {dtype}", where=f"output {value.name}", action=_REPAIR)
    if not model.graph.output:
        raise UserError("it has no output", where="model", action="export the model with its outputs")


def check_input(value: ValueInfoProto) -> None:
    """Raise `UserError` for an input that is no tensor of numbers."""
    where = f"input {value.name}"
    if not value.type.HasField("tensor_type"):
        raise UserError("it is no tensor", where=where, action="use tensors as inputs")
    dtype = value.type.tensor_type.elem_type
    if dtype not in _TENSOR_TYPES:
        raise UserError(f"it has the unknown element type {dtype}", where=where, action=_REPAIR)
    if helper.tensor_dtype_to_np_dtype(dtype).kind not in "biufV":
        raise UserError("it does not hold numbers", where=where, action="use tensors of numbers as inputs")


def describe(node: NodeProto) -> str:
    """Return the operator of a node and its name, or that of its first result if it has none."""
    return f"{node.op_type or 'node'} {node.name or next((o for o in node.output if o), '')}".strip()


def _check_versions(model: ModelProto) -> None:
    opset, newest = opset_of(model), defs.onnx_opset_version()
    if opset < OLDEST_OPSET:
        raise UserError(
            f"operator set {opset} is older than {OLDEST_OPSET}", where="model",
            action="convert it with onnx.version_converter",
        )  # fmt: skip
    if opset > newest:
        raise UserError(
            f"operator set {opset} is newer than {newest}, the newest that is known", where="model",
            action="export the model for an older one, or install a newer onnx",
        )  # fmt: skip


def _check_graph(
    graph: GraphProto, outside: set[str], versions: dict[str, int], local: set[tuple[str, str]], where: str
) -> None:
    """Check a graph that may read the values `outside`."""
    known = set(outside)
    for tensor in graph.initializer:
        check_tensor(tensor, f"initializer {tensor.name!r}")
    for sparse in graph.sparse_initializer:
        _check_sparse(sparse)
    _check_names([i.name for i in graph.input], "input", where)
    _check_names([t.name for t in graph.initializer], "initializer", where)
    known |= {i.name for i in graph.input} | {i.name for i in graph.initializer}
    known |= {i.values.name for i in graph.sparse_initializer}
    known = _check_nodes(graph.node, known, versions, local)
    _check_names([o.name for o in graph.output], "output", where)
    for output in graph.output:
        if output.name not in known:
            raise UserError(f"output {output.name!r} is never computed", where=where, action=_REPAIR)


def _check_names(names: Sequence[str], what: str, where: str) -> None:
    _check_text(names, where)
    seen: set[str] = set()
    for name in names:
        if not name:
            raise UserError(f"an {what} has no name", where=where, action=_REPAIR)
        if name in seen:
            raise UserError(f"two {what}s are called {name!r}", where=where, action="give each a name of its own")
        seen.add(name)


def _check_text(names: Sequence[str], where: str) -> None:
    """Refuse names that are no text, which protobuf gives as bytes."""
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"the name {bytes(name)[:40]!r} is not UTF-8", where=where, action=_REPAIR)


def _check_nodes(
    nodes: Sequence[NodeProto], known: set[str], versions: dict[str, int], local: set[tuple[str, str]]
) -> set[str]:
    """Check nodes that may read the values `known`; return these and what the nodes compute."""
    produced = {name for node in nodes for name in node.output if name}
    known = set(known)
    for node in nodes:
        where = describe(node)
        _check_text([node.op_type, node.domain, node.name, *node.input, *node.output], where)
        for name in node.input:
            if name and name not in known:
                problem = "is used before it is computed (cyclic or unsorted graph)" if name in produced else (
                    "is neither an input, an initializer nor computed")  # fmt: skip
                raise UserError(f"value {name!r} {problem}", where=where, action=_REPAIR)
        _check_node(node, versions, local)
        for body in bodies_of(node):
            _check_graph(body, known, versions, local, where)
        for name in node.output:
            if name and name in known:
                raise UserError(f"value {name!r} is computed twice", where=where, action=_REPAIR)
            known.update([name] if name else [])
    return known


def bodies_of(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that a node holds."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def _check_node(node: NodeProto, versions: dict[str, int], local: set[tuple[str, str]]) -> None:
    where = describe(node)
    if not node.op_type:
        raise UserError("a node has no operator", where=where, action=_REPAIR)
    if not any(node.output):
        raise UserError("it computes nothing", where=where, action="remove the node, or repair the model")
    for attribute in node.attribute:
        _check_attribute(attribute, where)
    _check_names([a.name for a in node.attribute], "attribute", where)
    domain = "" if node.domain == "ai.onnx" else node.domain
    if (node.domain, node.op_type) in local:
        return
    version = versions.get(domain, 1)
    if defs.has(node.op_type, version, domain):
        _check_schema(node, defs.get_schema(node.op_type, version, domain), version)
        _check_bodies(node)


def _check_schema(node: NodeProto, schema: defs.OpSchema, version: int) -> None:
    """Compare a node with the definition of its operator."""
    where, kind = describe(node), f"{node.op_type} of operator set {version}"
    for what, count, least, most in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("results", len(node.output), schema.min_output, schema.max_output),
    ):
        if not least <= count <= most:
            takes = str(least) if least == most else f"{least} to {most}"
            raise UserError(f"it has {count} {what}, {kind} takes {takes}", where=where, action=_REPAIR)
    for i, formal in enumerate(schema.inputs[: schema.min_input]):
        if not node.input[i] and formal.option == defs.OpSchema.FormalParameterOption.Single:
            raise UserError(f"input {formal.name!r} is absent", where=where, action="give the node that input")
    given = {a.name for a in node.attribute}
    for attribute in node.attribute:
        formal_attribute = schema.attributes.get(attribute.name)
        wanted = int(formal_attribute.type.value) if formal_attribute is not None else attribute.type
        if wanted != attribute.type and not attribute.ref_attr_name:
            names = [AttributeProto.AttributeType.Name(t) for t in (attribute.type, wanted)]
            raise UserError(f"attribute {attribute.name!r} is {names[0]}, not {names[1]}", where=where, action=_REPAIR)
    for name, formal_attribute in schema.attributes.items():
        if formal_attribute.required and name not in given:
            raise UserError(f"attribute {name!r} is absent, {kind} needs it", where=where, action="add the attribute")


def _check_attribute(attribute: AttributeProto, where: str) -> None:
    """Check that an attribute holds what its type says."""
    what = f"attribute {attribute.name!r}"
    if attribute.ref_attr_name:
        return
    if attribute.type not in AttributeProto.AttributeType.values() or attribute.type == AttributeProto.UNDEFINED:
        raise UserError(f"{what} has the unknown type {attribute.type}", where=where, action=_REPAIR)
    for kind, field in _MESSAGES.items():  # a number that is absent is 0, as some writers leave it out
        if attribute.HasField(field) != (attribute.type == kind):
            problem = "holds nothing" if attribute.type == kind else "holds what its type does not name"
            raise UserError(f"{what} {problem}", where=where, action=_REPAIR)
    for tensor in [attribute.t] if attribute.type == AttributeProto.TENSOR else attribute.tensors:
        check_tensor(tensor, f"{where}, {what}")
    if attribute.type == AttributeProto.SPARSE_TENSOR:
        _check_sparse(attribute.sparse_tensor)


def _check_bodies(node: NodeProto) -> None:
    """Check that the bodies of control flow take and return as many values as the node gives and takes."""
    graphs = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}
    wanted: list[tuple[str, int | None, int]] = []  # body, inputs, outputs
    if node.op_type == "If":
        wanted = [(name, 0, len(node.output)) for name in ("then_branch", "else_branch")]
    elif node.op_type == "Loop":
        carried = len(node.input) - 2
        wanted = [("body", carried + 2, len(node.output) + 1)]
        if len(node.output) < carried:
            raise UserError(f"it carries {carried} values and returns {len(node.output)}", where=describe(node),
                            action=_REPAIR)  # fmt: skip
    elif node.op_type == "Scan":
        scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
        wanted = [("body", len(node.input), len(node.output))]
        if not 0 < scanned <= len(node.input) or len(node.input) - scanned > len(node.output):
            raise UserError(f"it scans {scanned} of {len(node.input)} inputs into {len(node.output)} results",
                            where=describe(node), action=_REPAIR)  # fmt: skip
    for name, inputs, outputs in wanted:
        body = graphs[name]
        if (inputs, outputs) != (len(body.input), len(body.output)):
            raise UserError(
                f"{name!r} takes {len(body.input)} values and returns {len(body.output)}, not {inputs} and {outputs}",
                where=describe(node), action=_REPAIR,
            )  # fmt: skip


def check_tensor(tensor: TensorProto, where: str) -> None:
    """Raise `UserError` for a tensor whose type is unknown or that holds more or fewer elements than its shape."""
    if tensor.data_type not in _TENSOR_TYPES or tensor.data_type == TensorProto.UNDEFINED:
        raise UserError(f"it has the unknown element type {tensor.data_type}", where=where, action=_REPAIR)
    if any(n < 0 for n in tensor.dims):
        raise UserError(f"its shape is {list(tensor.dims)}", where=where, action="make every extent 0 or more")
    if tensor.HasField("segment"):
        raise UserError("it is one segment of a tensor", where=where, action="store whole tensors")
    count = elements(tensor.dims)
    check_count(count, tensor.dims, where)
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    raw = len(tensor.raw_data) if tensor.HasField("raw_data") else -1
    held, wanted = (raw, raw_bytes(count, tensor.data_type)) if raw >= 0 else _listed(tensor, count)
    if held != wanted:
        unit = "bytes" if raw >= 0 else "values"
        raise UserError(f"it holds {held} {unit}, its shape {list(tensor.dims)} takes {wanted}", where=where,
                        action=_REPAIR)  # fmt: skip


def _listed(tensor: TensorProto, count: int) -> tuple[int, int]:
    """Return how many numbers a tensor lists, and how many it should."""
    values = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return len(values), 2 * count
    bits = _BITS.get(tensor.data_type)
    return len(values), count if bits is None else -(-count * bits // 8)


def raw_bytes(count: int, data_type: int) -> int:
    """Return how many bytes `count` elements take in a file."""
    bits = _BITS.get(data_type)
    return -(-count * bits // 8) if bits else count * helper.tensor_dtype_to_np_dtype(data_type).itemsize


def _check_sparse(sparse: onnx.SparseTensorProto) -> None:
    where = f"initializer {sparse.values.name!r}"
    check_tensor(sparse.values, where)
    check_tensor(sparse.indices, f"{where}, indices")
    check_count(elements(sparse.dims), sparse.dims, where)
    stored = elements(sparse.values.dims)
    shapes = ((stored,), (stored, len(sparse.dims)))
    if tuple(sparse.indices.dims) not in shapes or sparse.indices.data_type != TensorProto.INT64:
        raise UserError(f"{stored} values have indices of shape {list(sparse.indices.dims)}", where=where,
                        action="give each value one linear index, or one for each dimension, as int64")  # fmt: skip
    values = onnx.numpy_helper.to_array(sparse.indices)
    most = np.asarray(sparse.dims if values.ndim == 2 else elements(sparse.dims))
    if bool((values < 0).any() or (values >= most).any()):
        raise UserError(f"an index lies outside the shape {list(sparse.dims)}", where=where, action=_REPAIR)


def elements(dims: Sequence[int]) -> int:
    """Return the number of elements of a shape, whatever its size."""
    count = 1
    for n in dims:
        count *= int(n)
    return count


def check_count(count: int, dims: Sequence[int], where: str, most: int = MOST_ELEMENTS) -> None:
    """Raise `UserError` for a tensor of more than `most` elements."""
    if count > most:
        raise UserError(
            f"a tensor of shape {list(dims)} has {count} elements, at most {most} are possible", where=where,
            action="check the shapes that are given and the constants they come from",
        )  # fmt: skip


def check_types(model: ModelProto, types: Mapping[str, int]) -> None:
    """Raise `UserError` for element types that do not fit: those of a node's inputs, or what an output is declared as.

    `types` gives the element types of values as far as they are known.
    """
    versions = {"": opset_of(model), **{o.domain: int(o.version) for o in model.opset_import if o.domain}}
    for node in model.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = versions.get(domain, 1)
        if defs.has(node.op_type, version, domain):
            _check_operands(node, defs.get_schema(node.op_type, version, domain), types)
    for value in model.graph.output:
        declared = value.type.tensor_type.elem_type
        found = types.get(value.name, declared)
        if declared and declared != found:
            raise UserError(f"it is declared as {_TYPE_NAMES[declared]}, the model computes {_TYPE_NAMES[found]}",
                            where=f"output {value.name}", action=_REPAIR)  # fmt: skip


def _check_operands(node: NodeProto, schema: defs.OpSchema, types: Mapping[str, int]) -> None:
    bound: dict[str, str] = {}
    for place, name in enumerate(node.input):
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        if name not in types:
            continue
        given = f"tensor({_TYPE_NAMES.get(types[name], '')})"
        if given not in formal.types:
            offered = ", ".join(sorted(formal.types))
            raise UserError(f"input {formal.name!r} ({name!r}) is {given}, not one of {offered}",
                            where=describe(node), action="cast it, or repair the model")  # fmt: skip
        if "(" not in formal.type_str and formal.is_homogeneous and bound.setdefault(formal.type_str, given) != given:
            raise UserError(f"input {formal.name!r} ({name!r}) is {given}, the others are {bound[formal.type_str]}",
                            where=describe(node), action="cast one of them, or repair the model")  # fmt: skip
