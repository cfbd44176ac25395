"""The four parts as packaged data, and what a target answers."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import pytest

from dsa_compiler.target import CORE_ENGINES, ENGINES, SCOPES, Memory, list_targets, load_target
from dsa_compiler.target.description import MatrixEngine


def test_the_parts_are_packaged():
    assert list_targets() == ("npu-bench", "npu-edge", "npu-v1", "npu-v2")


@pytest.mark.parametrize("name", list_targets())
def test_every_constant_of_the_file_is_read(name):
    """Each number of the TOML stands in the description, under the same name."""
    target = load_target(name)
    assert target.name == name
    for scope, values in target.source["memory"].items():
        assert {k: getattr(target.memory[scope], k) for k in values} == values
    for engine, values in target.source["engine"].items():
        described = getattr(target.engine, engine)
        for key, value in values.items():
            found = getattr(described, key)
            assert {k: list(v) for k, v in found.items()} == value if key == "unit" else found == value
    for table in ("sync", "host", "limits", "features"):
        assert {k: getattr(getattr(target, table), k) for k in target.source[table]} == target.source[table]
    assert target.program_size == target.source["program"]["size"]
    assert list(target.dtypes) == target.source["dtypes"]
    assert (target.clusters, target.cores_per_cluster) == (
        target.source["clusters"],
        target.source["cores_per_cluster"],
    )


def test_constants_of_npu_v1():
    v1 = load_target("npu-v1")
    assert (v1.cores, v1.has_llb, v1.clock_ghz) == (32, True, 1.0)
    assert v1.memory["ddr"] == Memory(17179869184, 64, 119.4, 200, 64, 1)
    assert v1.memory["l1"] == Memory(1310720, 32, 0.0, 0, 32, 10)
    assert v1.memory["l1"].bank_bytes == 131072
    assert v1.engine.matrix.macs_per_cycle("float16") == 2048
    assert v1.engine.matrix.macs_per_cycle("int32") == 0
    assert v1.engine.vector.cost == {"simple": 1, "divide": 4, "transcendental": 4, "gather": 8}


def test_parts_without_an_llb():
    edge = load_target("npu-edge")
    assert not edge.has_llb
    assert edge.engine.prefetch is None
    assert (edge.cores, edge.sync.chip_flags, edge.sync.cluster_barrier) == (1, 0, 0)


@pytest.mark.parametrize(
    ("name", "itemsize", "extent", "pitch"),
    [("npu-v1", 2, 1, 16), ("npu-v1", 2, 16, 16), ("npu-v1", 2, 17, 32), ("npu-v1", 4, 9, 16), ("npu-v2", 2, 33, 64),
     ("npu-v2", 1, 1, 64), ("npu-v1", 64, 3, 3)],
)  # fmt: skip
def test_pitch(name, itemsize, extent, pitch):
    assert load_target(name).pitch(extent, itemsize) == pitch


def test_row_elements():
    assert load_target("npu-v1").row_elements(2) == 16
    assert load_target("npu-v2").row_elements(4) == 16


def test_names():
    assert (*CORE_ENGINES, "prefetch") == ENGINES
    assert SCOPES == ("ddr", "llb", "l1", "l0a", "l0b", "l0c")


def test_a_target_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_target("npu-v1").name = "other"
    assert MatrixEngine(0, MappingProxyType({"int8": (2, 3, 4)})).macs_per_cycle("int8") == 24
