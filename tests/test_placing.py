"""From a schedule to a program: places in llb that are not found lead to another schedule; addresses of clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dsa_compiler as dsac
import models
from dsa_compiler import placement
from dsa_compiler.compilation import Compilation, CompiledLayer
from dsa_compiler.errors import Infeasible
from dsa_compiler.options import CompileOptions
from dsa_compiler.placing import place_chunks
from dsa_compiler.program.tables import SCOPE_CODE
from dsa_compiler.schedule.layer_schedule import CHIP
from dsa_compiler.schedule.search import FILLS, find_schedule
from dsa_compiler.scheduled_kernels import ScheduledKernels, slice_of
from dsa_compiler.verification import TOLERANCES, compare, reference_outputs
from tests.schedule.graphs import graph_of

MODEL = models.build("tiny_cnn", batch=8)
LLB = CompileOptions(precision="float16", graph_schedule="llb")


def compiled(options: CompileOptions = LLB, target: str = "npu-v2") -> Any:
    return dsac.compile(MODEL, target, options=options)


def require_right(executable: Any) -> None:
    feeds = models.sample_inputs(MODEL, seed=1)
    for found in compare(executable.run(feeds), reference_outputs(MODEL, feeds)):
        assert found.within(TOLERANCES["float16"]), found


def test_no_room_leads_to_the_next_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    fills: list[float] = []

    def find(facts: Any, fill: float) -> Any:
        fills.append(fill)
        return find_schedule(facts, fill)

    def place(*arguments: Any) -> Any:
        if len(fills) < 3:
            raise Infeasible("llb", 2, 1)
        return place_chunks(*arguments)

    monkeypatch.setattr(placement, "find_schedule", find)
    monkeypatch.setattr(placement, "place_chunks", place)
    executable = compiled()
    assert fills == list(FILLS[:3])
    assert executable.report["feedback"]["llb"] == 2 and executable.report["schedule"] is not None
    require_right(executable)


def test_no_room_at_any_fill_leaves_one_layer_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def place(*arguments: Any) -> Any:
        raise Infeasible("llb", 2, 1)

    monkeypatch.setattr(placement, "place_chunks", place)
    executable = compiled()
    assert executable.report["feedback"]["llb"] == len(FILLS) and executable.report["schedule"] is None
    require_right(executable)


def test_what_a_cluster_cannot_carry_runs_on_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer without a kernel for one cluster is told to the search, which gives it to the chip."""
    compile_joined = Compilation.compile_joined

    def refuse(self: Compilation, layer: Any, where: Any, number: int) -> list[CompiledLayer]:
        made = compile_joined(self, layer, where, number)
        if where.target.clusters == 1 and layer.kind == "pool":
            return [CompiledLayer(layer, None, None, None, "refused")]
        return made

    monkeypatch.setattr(Compilation, "compile_joined", refuse)
    executable = compiled()
    report = executable.report
    assert report["feedback"]["layers refused"] == 1 and report["host_steps"] == []
    assert "chip" in report["schedule"]["images_an_instance"]
    require_right(executable)


def test_kernels_are_made_once_for_each_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of 3 and 2: each layer has two kernels; instances of equally many images share one."""
    counts: list[tuple[str, int]] = []
    pieces = ScheduledKernels._pieces

    def counted(self: Any, number: int, count: int, paired: bool = False) -> Any:
        known = set(self._made)
        result = pieces(self, number, count, paired)
        counts.extend((self.work.graph.layers[n].name, c) for n, c, _ in set(self._made) - known)
        return result

    monkeypatch.setattr(ScheduledKernels, "_pieces", counted)
    report = dsac.compile(models.build("tiny_cnn", batch=5), "npu-v2", options=LLB).report
    assert report["schedule"]["shares"] == [3, 2]
    assert len(counts) == len(set(counts)) and {c for _, c in counts} >= {2, 3} - {CHIP}


def test_clusters_have_their_own_images() -> None:
    """In ddr a cluster's input begins where the share of the one before ends; in llb all use the same addresses."""
    program = compiled(target="npu-v1").program
    entries, operands = program.entries, program.operands
    (x,) = program.inputs
    size = int(np.prod(x.shape)) * 4
    first: dict[str, list[int]] = {"ddr": [], "llb": []}
    for cluster in range(4):
        mine = np.flatnonzero(entries["cluster"] == cluster)
        rows = operands[np.concatenate([np.arange(e["operand"], e["operand"] + e["operands"]) for e in entries[mine]])]
        inside = (rows["address"] >= x.address) & (rows["address"] < x.address + size)
        first["ddr"].append(int(rows["address"][inside & (rows["scope"] == SCOPE_CODE["ddr"])].min()) - x.address)
        first["llb"].append(int(rows["address"][rows["scope"] == SCOPE_CODE["llb"]].min()))
    assert first["ddr"] == [0, size // 4, size // 2, 3 * size // 4]
    assert first["llb"] == [0] * 4


def test_a_slice_sees_its_images_where_the_schedule_has_them() -> None:
    from dsa_compiler.scheduling import plan_schedule

    plan = plan_schedule(MODEL, "npu-v1", CompileOptions(precision="float16"))
    layer = next(layer for layer in plan.graph.layers if layer.kind == "conv2d")
    part, graph = slice_of(layer, plan.graph, plan.schedule, 2)
    assert part.output.shape[0] * 4 == layer.output.shape[0]
    tensor = graph.tensors[layer.output.tensor]
    assert tensor.scope == "llb" and tensor.shape[0] == 2
    weights = [v.tensor for v in layer.inputs if plan.graph.tensors[v.tensor].value is not None]
    assert weights and all(graph.tensors[w] == plan.graph.tensors[w] for w in weights)
    assert graph_of(MODEL).inputs == plan.graph.inputs
