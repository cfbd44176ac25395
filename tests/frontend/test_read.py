"""Files: what is no model, and tensors beside one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsa_compiler.errors import UserError
from dsa_compiler.frontend import load_model


def model_of() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [value("x", TensorProto.FLOAT, [2, 3])],
        [value("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def external(folder: Path, location: str, **more: str) -> Path:
    """Write a model whose weight lies in another file; w.bin is there beside the model and above it."""
    model = model_of()
    tensor = model.graph.initializer[0]
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "folder").mkdir()
    (folder / "folder" / "w.bin").write_bytes(raw)
    (folder / "folder" / "long.bin").write_bytes(b"12345678" + raw + b"1234")
    (folder / "w.bin").write_bytes(raw)
    (folder / "folder" / "link.bin").symlink_to("../w.bin")
    (folder / "folder" / "loop.bin").symlink_to("loop.bin")
    (folder / "folder" / "inner.bin").symlink_to("w.bin")
    path = folder / "folder" / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_folder(tmp_path):
    with pytest.raises(UserError, match="it is a folder; give the path of an ONNX file"):
        load_model(tmp_path)


def test_an_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match="cannot read it: Permission denied; give a readable file"):
        load_model(path)


@pytest.mark.parametrize(
    ("location", "more"),
    [("w.bin", {}), ("inner.bin", {}), ("./w.bin", {"length": "12"}), ("long.bin", {"offset": "8", "length": "12"}),
     ("long.bin", {"offset": "8"})],
)  # fmt: skip
def test_external_data_beside_the_model(tmp_path, location, more):
    model = load_model(external(tmp_path, location, **more))
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), [0, 1, 2])


@pytest.mark.parametrize(
    ("location", "more", "message"),
    [
        ("../w.bin", {}, r"lies outside the model's folder: '\.\./w\.bin'; move it beside the model"),
        ("{here}/w.bin", {}, r"lies outside the model's folder: '/.*w\.bin'; move it beside the model"),
        ("link.bin", {}, r"lies outside the model's folder: 'link\.bin'; move it beside the model"),
        ("", {}, r"lies outside the model's folder: ''; move it beside the model"),
        ("a\0b", {}, r"has no valid place: 'a\\x00b'; repair the model"),
        ("v.bin", {}, r"is missing: 'v\.bin'; put the file beside the model"),
        ("w.bin", {"offset": "4"}, r"bytes 4 to 16 do not lie in the 12 of 'w\.bin'; check that the file is whole"),
        ("w.bin", {"offset": "-4"}, r"bytes -4 to 8 do not lie in the 12 of 'w\.bin'; check that the file is whole"),
        ("w.bin", {"offset": "many"}, r"its offset or length is no number; repair the model"),
        ("w.bin", {"length": "8"}, r"\[initializer 'w'\] it holds 8 bytes, its shape \[3\] takes 12; repair the model"),
    ],
)
def test_external_data_that_is_refused(tmp_path, location, more, message):
    with pytest.raises(UserError, match=message):
        load_model(external(tmp_path, location.format(here=tmp_path), **more))


def test_a_loop_of_links(tmp_path):
    with pytest.raises(UserError, match=r"(has no valid place|is missing): 'loop\.bin'; "):
        load_model(external(tmp_path, "loop.bin"))


def test_an_unreadable_tensor(tmp_path, monkeypatch):
    path = external(tmp_path, "w.bin")

    class Refusing(io.BytesIO):
        def seek(self, *args):
            raise PermissionError(13, "Permission denied")

    data = path.read_bytes()
    monkeypatch.setattr(Path, "open", lambda self, *args, **options: Refusing())
    monkeypatch.setattr(Path, "read_bytes", lambda self: data)
    with pytest.raises(UserError, match=r"external data of 'w'.* cannot read it: Permission denied; give a readable"):
        load_model(path)


def test_external_data_needs_a_folder(tmp_path):
    data = external(tmp_path, "w.bin").read_bytes()
    message = r"lies in another file: 'w\.bin'; give the path of the model, or load its data first"
    for source in (data, onnx.load_model_from_string(data)):
        with pytest.raises(UserError, match=message):
            load_model(source)
