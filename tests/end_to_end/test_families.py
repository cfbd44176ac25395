"""Networks of further families, each on a part by rotation: right in values, with the instructions they should use."""

from __future__ import annotations

import numpy as np
import pytest

import dsa_compiler as dsac
import models
from dsa_compiler.verification import TOLERANCES, compare, reference_outputs

PARTS = dsac.list_targets()
FAMILIES = {
    "llama_small": {"load_gather", "cos", "sin", "ge", "logical_and", "select", "silu", "reduce_sumsq", "log"},
    "gpt2_small": {"load_gather", "select", "gelu_tanh", "log"},
    "yolov4_small": {"mish", "leaky_relu", "sigmoid", "exp", "clip", "gt_scalar"},
    "unet_small": {"prelu", "pool_max"},
    "nerf_small": {"sin", "cos", "softplus", "exp", "abs"},
    "audio_tagger": {"max_scalar", "max", "log", "elu"},
    "inspector": {"tanh", "elu", "abs", "reduce_min", "expm1"},
}
"""Instructions that each network's operators have of their own."""

SAME_PLACES = {"float32": 0.999, "float16": 0.95}
"""Share of places of extremes that must agree: ties and near ties fall either way under rounding."""


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_networks_of_further_families(name: str, precision: str, capfd: pytest.CaptureFixture[str]) -> None:
    part = PARTS[(list(FAMILIES).index(name) + (precision == "float16")) % len(PARTS)]
    model = models.build(name)
    feeds = models.sample_inputs(model, seed=1)
    executable = dsac.compile(model, part, precision)
    want, got = reference_outputs(model, feeds), executable.run(feeds)
    for output, value in want.items():
        if value.dtype == np.int64:
            assert np.mean(got.pop(output) == value) >= SAME_PLACES[precision]
    for found in compare(got, {k: v for k, v in want.items() if v.dtype != np.int64}):
        assert found.within(TOLERANCES[precision]), found
    assert set(executable.report["opcodes"]) >= FAMILIES[name]
    assert "Warning" not in capfd.readouterr().err
