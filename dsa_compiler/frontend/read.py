"""Read an ONNX file, the tensors that it keeps beside it included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.check import bodies_of, check_tensor, elements, raw_bytes

Source: TypeAlias = str | os.PathLike[str] | bytes | ModelProto


def read_model(source: Source) -> ModelProto:
    """Parse `source`: a path, the bytes of a file, or a model, which is copied.

    Raises `UserError` for what is no ONNX model or cannot be read. External tensors are read if they lie in the folder
    of the model, links followed.
    """
    if isinstance(source, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(source)
        return _with_tensors(copy, None, "the model given")
    if isinstance(source, bytes):
        return _with_tensors(_parse(source, "the bytes given"), None, "the bytes given")
    path = Path(source)
    where = str(path)
    if path.is_dir():
        raise UserError("it is a folder", where=where, action="give the path of an ONNX file")
    if not path.is_file():
        raise UserError("no such file", where=where, action="give the path of an ONNX file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read it: {error.strerror}", where=where, action="give a readable file") from error
    return _with_tensors(_parse(data, where), path.parent, where)


def _parse(data: bytes, where: str) -> ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise UserError("not an ONNX model, or truncated", where=where, action="check the file") from error
    if not model.graph.node and not model.graph.output:
        raise UserError("the file holds no graph", where=where, action="check that it is an ONNX model")
    return model


def _with_tensors(model: ModelProto, folder: Path | None, where: str) -> ModelProto:
    """Return the model, all its tensors in memory and dense."""
    for graph in _graphs(model.graph):
        tensors = [*graph.initializer, *(t for n in graph.node for a in n.attribute for t in (a.t, *a.tensors))]
        for tensor in tensors:
            if tensor.data_location == TensorProto.EXTERNAL:
                _load(tensor, folder, where)
    return model


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and those of its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from _graphs(body)


def make_dense(model: ModelProto) -> None:
    """Replace, in place, sparse initializers by dense ones."""
    for graph in _graphs(model.graph):
        for sparse in graph.sparse_initializer:
            values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
            dense = np.zeros(elements(sparse.dims), values.dtype)
            shape = tuple(sparse.dims)
            dense[np.ravel_multi_index(tuple(indices.T), shape) if indices.ndim == 2 else indices] = values
            graph.initializer.append(numpy_helper.from_array(dense.reshape(shape), sparse.values.name))
        del graph.sparse_initializer[:]


def _load(tensor: TensorProto, folder: Path | None, where: str) -> None:
    """Read an external tensor, in place."""
    name = f"external data of {tensor.name!r}"
    check_tensor(tensor, f"initializer {tensor.name!r}")
    given = {entry.key: entry.value for entry in tensor.external_data}
    location = given.get("location", "")
    if folder is None:
        raise UserError(f"{name} lies in another file: {location!r}", where=where,
                        action="give the path of the model, or load its data first")  # fmt: skip
    try:
        target = (folder.resolve() / location).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of links
        raise UserError(f"{name} has no valid place: {location!r}", where=where, action="repair the model") from error
    if not location or not target.is_relative_to(folder.resolve()):
        raise UserError(f"{name} lies outside the model's folder: {location!r}", where=where,
                        action="move it beside the model")  # fmt: skip
    if not target.is_file():
        raise UserError(f"{name} is missing: {location!r}", where=where, action="put the file beside the model")
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
    tensor.raw_data = _part(target, tensor, given, f"{where}: {name}")
    check_tensor(tensor, f"initializer {tensor.name!r}")


def _part(path: Path, tensor: TensorProto, given: dict[str, str], where: str) -> bytes:
    """Return the bytes of `path` that are those of `tensor`."""
    try:
        offset = int(given.get("offset", "0"))
        length = int(given["length"]) if "length" in given else None
    except ValueError as error:
        raise UserError("its offset or length is no number", where=where, action="repair the model") from error
    if length is None:
        length = raw_bytes(elements(tensor.dims), tensor.data_type)
    try:
        size = path.stat().st_size
        if offset < 0 or length < 0 or offset + length > size:
            raise UserError(f"bytes {offset} to {offset + length} do not lie in the {size} of {path.name!r}",
                            where=where, action="check that the file is whole")  # fmt: skip
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(length)
    except OSError as error:
        raise UserError(f"cannot read it: {error.strerror}", where=where, action="give a readable file") from error
