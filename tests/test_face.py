"""`import dsa_compiler as dsac`: what the design promises of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import dsa_compiler as dsac
import models
from dsa_compiler.emit.pipeline import PIPELINE, EmitOptions
from dsa_compiler.options import EMISSION_PASSES
from dsa_compiler.runtime.executable import Executable
from dsa_compiler.target import load_target
from dsa_compiler.verification import compare, reference_outputs


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return models.build("tiny_cnn")


@pytest.fixture(scope="module")
def executable(model: onnx.ModelProto) -> Executable:
    return dsac.compile(model, target="npu-edge", precision="float16")


def test_runs_as_the_reference_does(model: onnx.ModelProto, executable: Executable) -> None:
    feeds = models.sample_inputs(model, seed=3)
    (difference,) = compare(executable.run(feeds), reference_outputs(model, feeds))
    assert difference.error < 3e-2 and difference.cosine > 0.999


def test_saves_and_loads(tmp_path: Path, model: onnx.ModelProto, executable: Executable) -> None:
    executable.save(tmp_path / "m.npu")
    loaded = dsac.load(tmp_path / "m.npu")
    feeds = models.sample_inputs(model, seed=3)
    for name, value in executable.run(feeds).items():
        assert loaded.run(feeds)[name].tobytes() == value.tobytes()
    assert loaded.report == executable.report


def test_takes_a_path_bytes_and_a_model(tmp_path: Path, model: onnx.ModelProto, executable: Executable) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    for source in (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), model.SerializeToString()):
        assert len(dsac.compile(source, "npu-edge", "float16").program) == len(executable.program)


def test_names_the_model_by_its_file_or_graph(tmp_path: Path, model: onnx.ModelProto) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    assert dsac.compile(tmp_path / "m.onnx", "npu-edge").report["model"] == "m.onnx"
    assert dsac.compile(model, "npu-edge").report["model"] == model.graph.name


def test_takes_a_part_of_ones_own(tmp_path: Path, model: onnx.ModelProto, executable: Executable) -> None:
    part = load_target("npu-edge")
    assert len(dsac.compile(model, part, "float16").program) == len(executable.program)


def test_options_beside_others() -> None:
    model = models.build("tiny_transformer")
    options = dsac.CompileOptions(precision="float32")
    report = dsac.compile(model, "npu-edge", precision="float16", options=options).report
    assert report["precision"] == "float16"


def test_tells_its_progress(model: onnx.ModelProto) -> None:
    steps: list[str] = []
    dsac.compile(model, "npu-edge", progress=steps.append)
    assert steps[0] == "reading the model" and steps[-1] == "assembly"


def test_profile_has_layers_and_entries(executable: Executable) -> None:
    profile = executable.profile()
    assert profile.cycles == executable.report["cycles"]
    assert profile.layers == executable.report["layers"]
    numbers = [profile.entries_of(row["name"]) for row in profile.layers]
    assert [len(n) for n in numbers] == [row["instructions"] for row in profile.layers]
    assert (np.sort(np.concatenate(numbers)) == np.flatnonzero(executable.program.entries["kernel"] >= 0)).all()


def test_lists_targets() -> None:
    assert dsac.list_targets() == ("npu-bench", "npu-edge", "npu-v1", "npu-v2")


def test_inputs_that_do_not_fit(executable: Executable, model: onnx.ModelProto) -> None:
    (name, value), = models.sample_inputs(model).items()
    with pytest.raises(dsac.UserError, match=r"the input '.*' is missing"):
        executable.run({})
    with pytest.raises(dsac.UserError, match="has no input 'other'"):
        executable.run({name: value, "other": value})
    with pytest.raises(dsac.UserError, match=r"has shape \[1\], the model takes"):
        executable.run({name: value.reshape(-1)[:1]})
    with pytest.raises(dsac.UserError, match="is float64, the model takes float32"):
        executable.run({name: value.astype(np.float64)})


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({"precision": "int3"}, r"\[options\] there is no precision 'int3'; use one of float32, float16"),
        ({"graph_schedule": "best"}, r"\[options\] there is no graph schedule 'best'; use one of auto, llb, none"),
        ({"disabled_passes": frozenset({"Magic"})}, r"there is no emission pass 'Magic'; use one of LoopShift"),
        ({"batch": 0}, "a batch of 0 is not possible; give 1 or more"),
    ],
)
def test_options_that_are_not_offered(chosen: dict, text: str) -> None:
    with pytest.raises(dsac.UserError, match=text):
        dsac.CompileOptions(**chosen)


def test_passes_that_may_be_left_out_are_those_of_the_pipeline() -> None:
    part, options = load_target("npu-v1"), EmitOptions()
    assert set(EMISSION_PASSES) == {step(part, options).name for step in PIPELINE}


def test_errors_are_a_small_tree() -> None:
    for kind in (dsac.UserError, dsac.Infeasible, dsac.InternalError):
        assert issubclass(kind, dsac.DsacError)
    assert str(dsac.UserError("no", where="here", action="do")) == "[here] no; do"
