"""Descriptions of the user's own: read, and refused with the key that is wrong."""

from __future__ import annotations

import copy
import re
from importlib import resources

import pytest

from dsa_compiler.errors import UserError
from dsa_compiler.target import load_target, parse_target, target_from_dict

V1 = load_target("npu-v1").source
TEXT = (resources.files("dsa_compiler.target") / "data" / "npu-v1.toml").read_text()


def edited(path: str, value=None) -> dict:
    """npu-v1 with one key changed, or removed where no value is given."""
    data = copy.deepcopy(dict(V1))
    *tables, key = path.split("/")
    table = data
    for name in tables:
        table = table[name]
    if value is None:
        del table[key]
    else:
        table[key] = value
    return data


def refused(message: str, data: dict) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        target_from_dict(data, "my.toml")
    assert str(caught.value).startswith("[my.toml] ")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("memory/l1", None, "memory.l1 is missing; describe it"),
        ("memory/l3", {"size": 1024, "alignment": 32}, "memory.l3 is no scope of this machine; remove it"),
        ("name", "", "name is '', not a name; give a text"),
        ("name", 7, "name is 7, not a name"),
        ("clusters", None, "clusters is missing; add it as in the packaged parts"),
        ("clusters", 0, "clusters is 0, not a whole number of at least 1; correct it"),
        ("clusters", 1.5, "clusters is 1.5, not a whole number of at least 1"),
        ("clusters", True, "clusters is True, not a whole number of at least 1"),
        ("clock_ghz", -1.0, "clock_ghz is -1.0, not a positive number; correct it"),
        ("clock_ghz", "fast", "clock_ghz is 'fast', not a positive number"),
        ("host/bandwidth", 0, "host.bandwidth is 0, not a positive number"),
        ("host/call_latency", -1, "host.call_latency is -1, not a whole number of at least 0"),
        ("dtypes", [], "dtypes is [], not a list; list the part's dtypes"),
        ("dtypes", "float16", "dtypes is 'float16', not a list"),
        ("dtypes", ["float16", "float64"], "dtypes names 'float64'; use some of float32, float16"),
        ("memory/ddr", 5, "memory.ddr is 5, not a table; write it as a table"),
        ("memory/ddr/alignment", 48, "memory.ddr.alignment is 48, not a power of two"),
        ("memory/l1/banks", 7, "memory.l1.banks is 7, which does not divide size 1310720"),
        ("memory/l1/size", None, "memory.l1.size is missing"),
        ("engine/load/port_bandwidth", 0.0, "engine.load.port_bandwidth is 0.0, not a positive number"),
        ("engine/prefetch", None, "engine.prefetch is missing"),
        ("engine/vector/cost/divide", None, "engine.vector.cost.divide is missing"),
        ("engine/matrix/unit/float16", [16, 16], "engine.matrix.unit.float16 is [16, 16]; give a dtype's [m, n, k]"),
        ("engine/matrix/unit/float16", [16, 16, 0], "engine.matrix.unit.float16 is [16, 16, 0]"),
        ("engine/matrix/unit/float64", [1, 1, 1], "engine.matrix.unit.float64 is [1, 1, 1]"),
        ("engine/matrix/unit/int4", [1, 1, 1], "engine.matrix.unit.int4 is no dtype of the part; add it to dtypes"),
        ("sync/flags", None, "sync.flags is missing"),
        ("sync/cluster_flags", None,
         "sync.cluster_flags is missing; a cluster with an LLB or several cores needs it"),
        ("sync/chip_flags", None, "sync.chip_flags is missing; a part with several clusters needs it"),
        ("limits/extent", 0, "limits.extent is 0, not a whole number of at least 1"),
        ("features/multicast", "yes", "features.multicast is 'yes', neither true nor false; correct it"),
        ("engine/load/transpose_rate", None,
         "engine.load.transpose_rate is missing; features.transpose_load needs it"),
    ],
)  # fmt: skip
def test_wrong_keys(path, value, message):
    refused(message, edited(path, value))


def test_the_issue_s_part_of_one_cluster():
    """npu-v1 cut to one cluster: the chip's flags may stay or go."""
    text = TEXT.replace("clusters = 4", "clusters = 1")
    assert parse_target(text).cores == 8
    data = edited("clusters", 1)
    for key in ("chip_flags", "chip_flag_cost", "chip_barrier"):
        del data["sync"][key]
    assert target_from_dict(data).sync.chip_flags == 0


def test_a_part_without_an_llb():
    data = edited("memory/llb")
    target = target_from_dict(data)
    assert not target.has_llb
    assert target.engine.prefetch is None


def test_defaults():
    """A scope without burst uses its alignment, without latency 0, without bandwidth no limit."""
    memory = load_target("npu-v1").memory["l0c"]
    assert (memory.burst, memory.latency, memory.bandwidth, memory.banks) == (64, 0, 0.0, 1)
    data = edited("features/multicast")
    assert target_from_dict(data).features.multicast is False


def test_files(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(TEXT.replace('name = "npu-v1"', 'name = "own"'))
    assert load_target(path).name == load_target(str(path)).name == "own"
    assert load_target(load_target(path)).name == "own"


def test_files_that_cannot_be_read(tmp_path):
    missing = tmp_path / "none.toml"
    with pytest.raises(
        UserError, match=re.escape(f"cannot read {missing}: No such file or directory; give a readable")
    ):
        load_target(missing)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=re.escape(f"{binary} is not text; give a TOML file")):
        load_target(binary)
    with pytest.raises(UserError, match=r"\[target\] no part is called 'npu-v3'; name one of npu-bench, npu-edge"):
        load_target("npu-v3")
    with pytest.raises(UserError, match=r"\[own\] not valid TOML: .*; correct the file"):
        parse_target("name = ", "own")
    broken = tmp_path / "broken.toml"
    broken.write_text("clusters = [")
    with pytest.raises(UserError, match=r"not valid TOML"):
        load_target(broken)


def test_messages_do_not_depend_on_the_order_of_scopes():
    data = edited("memory/ddr")
    del data["memory"]["l0c"]
    refused("memory.ddr is missing", data)
