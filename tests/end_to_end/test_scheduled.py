"""Small random networks under a layer schedule: right values, no race, and the accountant agrees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dsa_compiler as dsac
import models
from dsa_compiler.options import CompileOptions
from dsa_compiler.program.listing import listing
from dsa_compiler.runtime.executable import Executable
from dsa_compiler.schedule.images import divide
from dsa_compiler.schedule.layer_schedule import CHIP, Group, LayerSchedule
from dsa_compiler.schedule.order import order_instances
from dsa_compiler.schedule.search import needs
from dsa_compiler.scheduling import SchedulePlan, plan_schedule
from dsa_compiler.verification import TOLERANCES, compare, reference_outputs
from tests.accountant.account import account
from tests.end_to_end.random_networks import random_cnn, random_transformer
from tests.lower.parts import changed, part

PARTS = ("npu-v1", "npu-v2", "npu-bench", "four")
LLB_BYTES = (None, 1 << 14, 1 << 15, 1 << 16, 1 << 17)
"""As the part has it, or smaller: then a network does not fit, groups nest and cuts are made."""


@pytest.mark.parametrize("seed", range(24))
def test_random_networks(seed: int) -> None:
    """A batch of 3 to 9 on a part and an llb by rotation; the seed names the case."""
    rng = np.random.default_rng(seed)
    model = (random_cnn, random_transformer)[seed % 2](seed, int(rng.integers(3, 10)))
    precision = ("float16", "float32")[seed // 2 % 2]
    target = part(PARTS[seed // 2 % len(PARTS)])
    if (llb := LLB_BYTES[seed % len(LLB_BYTES)]) is not None:
        target = changed(target, **{"memory.llb.size": llb})
    feeds = models.sample_inputs(model, seed=seed)
    options = CompileOptions(precision=precision, graph_schedule="llb")  # type: ignore[arg-type]
    executable = dsac.compile(model, target, options=options)
    got = executable.run(feeds)
    for found in compare(got, reference_outputs(model, feeds)):
        assert found.within(TOLERANCES[precision]), found
    assert executable.report["host_steps"] == []
    assert executable.report["llb_peak_bytes"] <= target.memory["llb"].size
    for race_seed in (1, 2, 3):
        other = executable.run(feeds, race_seed=race_seed)
        assert {n: v.tobytes() for n, v in other.items()} == {n: v.tobytes() for n, v in got.items()}
    assert sum(row["cycles"] for row in executable.report["layers"]) == pytest.approx(executable.report["cycles"])
    require_accounted(executable)


@pytest.mark.parametrize("seed", range(8))
def test_random_schedules(seed: int) -> None:
    """Groups, images an instance, side groups and scopes as nobody would choose them: the values stay right."""
    rng = np.random.default_rng(seed)
    batch = int(rng.integers(4, 9))
    model = (random_cnn, random_transformer)[seed % 2](seed + 50, batch)
    options = CompileOptions(precision="float16")
    plan = plan_schedule(model, part(PARTS[seed % len(PARTS)]), options)
    executable = dsac.compile(model, plan.target, options=replace(options, schedule=_drawn(plan, rng)))
    feeds = models.sample_inputs(model, seed=seed)
    got = executable.run(feeds)
    for found in compare(got, reference_outputs(model, feeds)):
        assert found.within(TOLERANCES["float16"]), found
    other = executable.run(feeds, race_seed=seed)
    assert {n: v.tobytes() for n, v in other.items()} == {n: v.tobytes() for n, v in got.items()}
    require_accounted(executable)


def _drawn(plan: SchedulePlan, rng: np.random.Generator) -> LayerSchedule:
    graph, known = plan.graph, plan.schedule
    groups: list[Group] = []
    while (first := groups[-1].last + 1 if groups else 0) < len(graph.layers):
        last = min(len(graph.layers) - 1, first + int(rng.integers(0, 5)))
        alone = all(divide(layer, graph, known.images) for layer in graph.layers[first : last + 1])
        images = int(rng.integers(1, known.most + 1)) if alone and rng.random() < 0.8 else CHIP
        groups.append(Group(first, last, images, side=images != CHIP and rng.random() < 0.3))
    of_chip = [graph.layers[n] for g in groups if g.images == CHIP for n in g.layers]
    ddr = {v.tensor for layer in of_chip for v in (*layer.inputs, *layer.outputs)}
    scopes = {t: s for t, s in known.scopes.items() if t not in ddr and rng.random() < 0.8}
    order = order_instances(groups, needs(graph, groups), known.most)
    return LayerSchedule(known.images, known.shares, tuple(groups), scopes, order)


def require_accounted(executable: Executable) -> None:
    """The accountant has the same cycles from the listing alone, and finds no hazard."""
    result = account(listing(executable.program))
    assert [str(h) for h in result.hazards] == []
    assert result.cycles == pytest.approx(executable.report["cycles"], rel=1e-6)
