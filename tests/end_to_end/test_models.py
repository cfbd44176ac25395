"""Whole networks through all five levels, against ONNX Runtime, and against an account of their listings."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx
import pytest

import dsa_compiler as dsac
import models
from dsa_compiler.options import EMISSION_PASSES
from dsa_compiler.program.listing import listing
from dsa_compiler.runtime.executable import Executable
from dsa_compiler.verification import TOLERANCES, compare, reference_outputs
from tests.accountant.account import account

PARTS = dsac.list_targets()
SMALL = ("tiny_cnn", "tiny_transformer")
OTHERS = (
    ("resnet18", "npu-v1", "float16"),
    ("mobilenet_v2", "npu-bench", "float16"),
    ("bert2", "npu-v2", "float32"),
)


@lru_cache(maxsize=4)
def network(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A network, its inputs, and the reference's outputs."""
    model = models.build(name)
    feeds = models.sample_inputs(model, seed=1)
    return model, feeds, reference_outputs(model, feeds)


@lru_cache(maxsize=4)
def compiled(name: str, part: str, precision: str) -> Executable:
    return dsac.compile(network(name)[0], part, precision)


def check_values(executable: Executable, name: str, precision: str) -> None:
    _, feeds, want = network(name)
    for found in compare(executable.run(feeds), want):
        assert found.within(TOLERANCES[precision]), found


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", SMALL)
def test_small_networks_on_every_part(name: str, part: str, precision: str) -> None:
    executable = compiled(name, part, precision)
    check_values(executable, name, precision)
    report = executable.report
    assert report["macs_emitted_share"] >= 0.99 and report["element_ops_emitted_share"] >= 0.95
    assert report["host_steps"] == []
    assert 0 < report["efficiency"] <= 1


@pytest.mark.parametrize(("name", "part", "precision"), OTHERS)
def test_networks_of_true_size(name: str, part: str, precision: str) -> None:
    executable = compiled(name, part, precision)
    check_values(executable, name, precision)
    assert executable.report["macs_emitted_share"] >= 0.99


@pytest.mark.parametrize("part", PARTS)
def test_the_listing_accounts_for_itself(part: str) -> None:
    executable = compiled("tiny_cnn", part, "float16")
    result = account(listing(executable.program))
    assert result.cycles == pytest.approx(executable.report["cycles"], rel=1e-6, abs=1)
    assert result.hazards == []
    for (memory, direction), count in result.bytes.items():
        if memory == "ddr":
            assert executable.report[f"ddr_bytes_{direction}"] == pytest.approx(count)


@pytest.mark.parametrize("part", PARTS)
def test_races_change_nothing(part: str) -> None:
    executable = compiled("tiny_cnn", part, "float16")
    feeds = network("tiny_cnn")[1]
    plain = executable.simulate(feeds)
    for seed in range(3):
        raced = executable.simulate(feeds, race_seed=seed, check=False)
        for name, value in (plain.outputs or {}).items():
            assert (raced.outputs or {})[name].tobytes() == value.tobytes()
        assert raced.overlap > 1.0


def test_time_alone_gives_the_same_cycles() -> None:
    executable = compiled("tiny_cnn", "npu-v1", "float16")
    assert executable.simulate().cycles == executable.simulate(network("tiny_cnn")[1]).cycles


def test_the_same_model_gives_the_same_program() -> None:
    one, two = (dsac.compile(network("tiny_cnn")[0], "npu-v2", "float16").program for _ in range(2))
    assert one.entries.tobytes() == two.entries.tobytes() and one.operands.tobytes() == two.operands.tobytes()


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with other names of nodes and intermediate values."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = {value.name for value in (*copy.graph.input, *copy.graph.output, *copy.graph.initializer)}
    for number, node in enumerate(copy.graph.node):
        node.name = f"zz{number * 7 % 101}_{number}"
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name and name not in kept:
                    names[place] = f"value_{name[::-1]}"
    return copy


def test_nothing_is_keyed_on_names() -> None:
    model = network("tiny_cnn")[0]
    one, two = (dsac.compile(m, "npu-v1", "float16") for m in (model, renamed(model)))
    assert one.report["cycles"] == pytest.approx(two.report["cycles"], rel=0.01)


@pytest.mark.parametrize("name", EMISSION_PASSES)
def test_without_a_pass_the_values_stay_right(name: str) -> None:
    """A network either compiles without the pass, and is right, or says which layer cannot be emitted."""
    options = dsac.CompileOptions(precision="float16", disabled_passes=frozenset({name}))
    try:
        executable = dsac.compile(network("tiny_cnn")[0], "npu-edge", options=options)
    except dsac.Infeasible as reason:
        assert "instructions" in reason.limit
        return
    check_values(executable, "tiny_cnn", "float16")


def test_a_batch() -> None:
    model = models.build("tiny_cnn", batch=3)
    feeds = models.sample_inputs(model)
    executable = dsac.compile(model, "npu-v2", "float16")
    assert executable.report["batch"] == 3
    for found in compare(executable.run(feeds), reference_outputs(model, feeds)):
        assert found.within(TOLERANCES["float16"])
