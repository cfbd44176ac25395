"""Small random networks under a layer schedule: right values, no race, and the accountant agrees."""

from __future__ import annotations

import numpy as np
import pytest

import dsa_compiler as dsac
import models
from dsa_compiler.options import CompileOptions
from dsa_compiler.program.listing import listing
from dsa_compiler.runtime.executable import Executable
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


def require_accounted(executable: Executable) -> None:
    """The accountant has the same cycles from the listing alone, and finds no hazard."""
    result = account(listing(executable.program))
    assert [str(h) for h in result.hazards] == []
    assert result.cycles == pytest.approx(executable.report["cycles"], rel=1e-6)
