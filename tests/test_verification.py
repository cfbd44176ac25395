"""Comparison of outputs and levels."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import dsa_compiler as dsac
import models
from dsa_compiler.program.tables import Binding
from dsa_compiler.runtime.executable import Executable
from dsa_compiler.verification import (
    TOLERANCES,
    Difference,
    Tolerance,
    difference,
    program_precision,
    random_inputs,
    reference_name,
    reference_outputs,
    verify,
)


@pytest.fixture(scope="module")
def executable() -> Executable:
    return dsac.compile(models.build("tiny_transformer"), "npu-edge", "float16")


def test_difference_by_hand() -> None:
    found = difference("y", np.array([1.0, 2.0, -4.0]), np.array([1.0, 2.5, -4.0]))
    assert found.error == pytest.approx(0.5 / 4) and found.distance == pytest.approx(0.5)
    assert found.cosine == pytest.approx(22 / np.sqrt(21 * 23.25))


def test_equal_outputs_pass_whatever_they_hold() -> None:
    for array in (np.zeros(4), np.array([np.nan, np.inf]), np.zeros(0), np.array([True, False])):
        assert difference("y", array, array) == Difference("y", 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("got", "want"),
    [([np.nan, 1.0], [1.0, 1.0]), ([1.0, 1.0], [1.0, 1.0, 1.0]), ([0.0, 0.0], [1.0, 1.0]), ([1.0], [0.0]),
     ([np.inf], [1.0])],
)  # fmt: skip
def test_what_never_passes(got: list[float], want: list[float]) -> None:
    with np.errstate(invalid="ignore"):
        found = difference("y", np.array(got), np.array(want))
    assert not any(found.within(tolerance) for tolerance in TOLERANCES.values())


def test_both_bounds_must_hold() -> None:
    tolerance = Tolerance(1e-3, 0.999)
    assert Difference("y", 1e-3, 0.999, 0).within(tolerance)
    assert not Difference("y", 2e-3, 1.0, 0).within(tolerance)
    assert not Difference("y", 0.0, 0.99, 0).within(tolerance)


def test_random_inputs_fit_and_repeat() -> None:
    bindings = (Binding("a", 0, (2, 3), "float16"), Binding("b", 64, (4,), "int64"), Binding("c", 128, (5,), "bool"))
    one, two, other = (random_inputs(bindings, seed) for seed in (1, 1, 2))
    for binding in bindings:
        assert one[binding.name].shape == binding.shape and one[binding.name].dtype == binding.dtype
        assert (one[binding.name] == two[binding.name]).all()
    assert (one["a"] != other["a"]).any()


def test_levels_agree(executable: Executable) -> None:
    feeds = models.sample_inputs(models.build("tiny_transformer"))
    results = verify(executable, feeds, "float16", every=True)
    assert [r.level for r in results] == ["1 Relax as imported", "1 Relax, optimised", "2 layers", "5 program"]
    assert all(r.within(TOLERANCES["float16"]) for r in results)
    assert results[0].within(Tolerance(1e-5, 0.999999))


def test_precision_is_that_of_the_program(executable: Executable) -> None:
    assert program_precision(executable.program) == "float16"
    assert program_precision(dsac.compile(models.build("tiny_transformer"), "npu-edge").program) == "float32"


def test_without_onnxruntime_the_reference_is_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.build("tiny_transformer")
    feeds = models.sample_inputs(model)
    fast = reference_outputs(model, feeds)
    assert reference_name() == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert reference_name() == "onnx.reference"
    for name, value in reference_outputs(model, feeds).items():
        assert difference(name, value, fast[name]).within(Tolerance(1e-5, 0.999999))


@pytest.mark.parametrize("runtime", [True, False])
def test_a_reference_that_refuses(runtime: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not runtime:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(dsac.UserError, match=r"\[verify\] the reference does not run the model: .*; check the model"):
        reference_outputs(models.build("tiny_cnn"), {})


def test_a_program_from_a_file_cannot_be_verified(executable: Executable) -> None:
    with pytest.raises(dsac.UserError, match="the program does not hold its model; give the ONNX model"):
        verify(Executable(executable.program), {})
