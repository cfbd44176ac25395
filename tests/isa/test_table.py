"""The table as a whole: every opcode declared once, tested against an oracle, its code stable."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from dsa_compiler.isa.definition import COST_CLASSES, ROLES, WRITTEN_ROLES
from dsa_compiler.isa.dtypes import DTYPES
from dsa_compiler.isa.table import BY_CODE, OPCODES, TABLE
from dsa_compiler.target import CORE_ENGINES, ENGINES, SCOPES, load_target

HERE = Path(__file__).parent
READS = {
    "load": {"ddr", "llb"}, "prefetch": {"ddr", "llb"}, "store": {"l1", "l0c"}, "move": {"l1"},
    "matrix": {"l0a", "l0b", "l0c"}, "vector": {"l1", "l0c"}, "scalar": {"l1"},
}  # fmt: skip
WRITES = {
    "load": {"l1"}, "prefetch": {"ddr", "llb"}, "store": {"ddr", "llb"}, "move": {"l0a", "l0b"}, "matrix": {"l0c"},
    "vector": {"l1", "l0c"}, "scalar": {"l1"},
}  # fmt: skip


def oracles() -> set[str]:
    """What the files of values say that they exercise."""
    names: set[str] = set()
    for path in sorted(HERE.glob("test_values_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        names |= set(module.ORACLES)
    return names


def test_every_opcode_has_an_oracle():
    assert oracles() == set(OPCODES)


def test_there_are_enough_opcodes():
    assert len(TABLE) == len(OPCODES) == len(BY_CODE) >= 120


def test_codes_are_stable():
    """A code, once given, stays: programs on disk carry it. New opcodes are added to the list."""
    listed = dict(line.split() for line in (HERE / "opcodes.txt").read_text().splitlines())
    assert listed == {d.name: f"{d.code:#05x}" for d in TABLE}


@pytest.mark.parametrize("definition", TABLE, ids=lambda d: d.name)
def test_definition(definition):
    roles = [o.role for o in definition.operands]
    assert definition.engine in (*ENGINES, "control")
    assert definition.cost in COST_CLASSES
    assert 0 < definition.code < 1 << 16
    assert definition.doc.endswith(".")
    assert len(set(roles)) == len(roles)
    assert set(roles) <= set(ROLES)
    assert len({a.name for a in definition.attrs}) == len(definition.attrs)
    assert not definition.feature or hasattr(load_target("npu-v1").features, definition.feature)
    if roles:
        assert roles[0] in WRITTEN_ROLES
        assert len(WRITTEN_ROLES & set(roles)) == 1
        assert definition.semantics is not None
    for operand in definition.operands:
        assert set(operand.scopes) <= set(SCOPES)
        assert set(operand.dtypes) <= set(DTYPES)
        written = operand.role in WRITTEN_ROLES
        reach = WRITES if written else READS
        extra = {"l1"} if operand.role == "index" else set()
        assert set(operand.scopes) <= reach[definition.engine] | extra
        assert not (written and operand.broadcast)


def test_no_opcode_does_a_whole_operator():
    for word in ("softmax", "norm", "attention", "conv", "lstm"):
        assert not [name for name in OPCODES if word in name]


def test_definitions_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        OPCODES["add"].code = 1
    with pytest.raises(TypeError):
        OPCODES["more"] = OPCODES["add"]


def test_engines_have_their_families():
    counts = {engine: sum(d.engine == engine for d in TABLE) for engine in (*ENGINES, "control")}
    assert counts["vector"] > 100
    assert all(counts[e] >= 4 for e in (*CORE_ENGINES, "prefetch", "control"))


def test_an_unknown_role_has_no_spec():
    assert OPCODES["add"].spec("bias") is None
    assert OPCODES["add"].spec("src2").role == "src2"
