"""Nothing is keyed on names: renaming every node and value gives the same program."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import AttributeProto, GraphProto, ModelProto

import dsa_compiler as dsac
import models
from dsa_compiler.frontend import load_model


def renamed(model: ModelProto, value: str, node: str) -> ModelProto:
    """A copy in which values and nodes are called by number after a stem, inputs and outputs as well."""
    copy = ModelProto()
    copy.CopyFrom(model)
    _rename(copy.graph, {}, value, node)
    return copy


def _rename(graph: GraphProto, outside: dict[str, str], value: str, node: str) -> None:
    known = dict(outside)
    for holder in (graph.input, graph.initializer, graph.output, graph.value_info):
        for entry in holder:
            entry.name = known.setdefault(entry.name, f"{value}{len(known)}")
    for number, each in enumerate(graph.node):
        each.name = f"{node}{number}"
        for names in (each.input, each.output):
            for place, name in enumerate(names):
                if name:
                    names[place] = known.setdefault(name, f"{value}{len(known)}")
        for attribute in each.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _rename(attribute.g, known, value, node)


@pytest.mark.parametrize("network", ["tiny_cnn", "tiny_transformer"])
@pytest.mark.parametrize("part", ["npu-edge", "npu-v1"])
@pytest.mark.parametrize(("value", "node"), [("v", "n"), ("Conv/softmax:", "attention.weight_"), ("z9", "0")])
def test_names_change_nothing(network: str, part: str, value: str, node: str) -> None:
    model = models.build(network)
    plain = dsac.compile(model, part, "float16")
    other = dsac.compile(renamed(model, value, node), part, "float16")
    for table in ("entries", "operands", "flags"):
        np.testing.assert_array_equal(getattr(other.program, table), getattr(plain.program, table))
    assert other.program.attrs == plain.program.attrs and other.program.ddr_bytes == plain.program.ddr_bytes
    assert other.report["cycles"] == plain.report["cycles"]


def test_renaming_renames() -> None:
    model = load_model(renamed(models.build("tiny_cnn"), "v", "n"))
    assert all(node.name.startswith("n") for node in model.graph.node)
    assert model.graph.input[0].name.startswith("v")
