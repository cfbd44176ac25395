import math

import numpy as np
import pytest
from click.testing import CliRunner

from ci.bench.__main__ import main
from ci.bench.ablation import Outcome
from ci.bench.cases import one_cluster, one_node, random_weights
from ci.bench.kernels import KINDS, Estimate, draw, estimate
from ci.bench.layers import matrix_span_busy, short_tiling
from ci.bench.prediction import rank_correlation
from ci.bench.resnet18 import PEERS
from dsa_compiler.program.assembler import parse_program
from dsa_compiler.simulator.timing import time_program
from dsa_compiler.target import load_target

MOVES = """
c0.0 move: move_a dst=l0a[{at}] f16 16x16 src=l1[0] f16 16x16 set core:move>matrix:0
c0.0 move: move_b dst=l0b[{at}] f16 16x16 src=l1[0] f16 16x16 set core:move>matrix:0
"""


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ([1, 2, 3], [10, 20, 90], 1.0), ([1, 2, 3], [3, 2, 1], -1.0), ([1, 1, 2], [5, 5, 7], 1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),
    ],
)  # fmt: skip
def test_rank_correlation(first, second, wanted):
    assert rank_correlation(first, second) == pytest.approx(wanted)


def test_rank_correlation_of_a_constant():
    assert math.isnan(rank_correlation([1, 1], [1, 2]))


def test_an_error_is_relative_to_the_simulated_cycles():
    kernel = draw(np.random.default_rng(0))
    assert Estimate(kernel, None, 90.0, 100.0).error == pytest.approx(0.1)


def test_kernels_are_drawn_by_seed_and_bounded():
    drawn = [draw(np.random.default_rng(seed), 1 << 24) for seed in range(60)]
    assert drawn == [draw(np.random.default_rng(seed), 1 << 24) for seed in range(60)]
    assert {k.kind for k in drawn} == set(KINDS)
    assert all(k.problem.macs <= 1 << 24 for k in drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_of_each_kind_is_built_and_timed(kind):
    random = np.random.default_rng(3)
    kernel = next(k for k in (draw(random, 1 << 22) for _ in range(1000)) if k.kind == kind)
    made = estimate(kernel)
    assert made is not None
    target = load_target(kernel.part)
    least = kernel.problem.macs / target.cores / target.engine.matrix.macs_per_cycle(kernel.problem.dtype)
    assert made.simulated > least


def test_the_cut_part_has_one_cluster_and_is_npu_v1_otherwise():
    with one_cluster() as path:
        part = load_target(path)
    whole = load_target("npu-v1")
    assert (part.clusters, part.name) == (1, "npu-v1-one-cluster")
    assert {**part.source, "clusters": 4, "name": "npu-v1"} == dict(whole.source)


def test_a_model_of_one_node():
    model = one_node("MatMul", {"a": (4, 8)}, (4, 2), {"w": random_weights(8, 2)})
    assert [n.op_type for n in model.graph.node] == ["MatMul"]
    assert list(model.graph.node[0].input) == ["a", "w"]
    assert [i.name for i in model.graph.input] == ["a"]


def test_weights_have_the_variance_of_one_over_the_inputs():
    assert random_weights(400, 100).astype(np.float64).var() == pytest.approx(1 / 400, rel=0.05)
    assert random_weights(64, 16, 3, 3).astype(np.float64).var() == pytest.approx(1 / 144, rel=0.05)


def test_a_tiling_in_short():
    text = "MatrixTiling(cores=(1, 2, 4), n=64, panel=16, stream_a=True, stream_b=False, ring_a=3, ring_acc=2)"
    assert short_tiling(text) == "cores=(1, 2, 4), n=64, panel=16, stream_a=True"


def test_the_matrix_engine_between_its_first_and_last_product():
    product = "c0.0 matrix: matmul dst=l0c[{0}] f32 16x16 lhs=l0a[{1}] f16 16x16 rhs=l0b[{1}] f16 16x16"
    waits = " wait core:move>matrix:0,core:move>matrix:0"
    lines = [MOVES.format(at=0), MOVES.format(at=512), product.format(0, 0) + waits, product.format(1024, 512) + waits]
    program = parse_program(".target npu-v1\n" + "\n".join(lines))
    timing = time_program(program)
    first, second = (timing.end[e] - timing.start[e] for e in (4, 5))
    assert matrix_span_busy(program, timing) == pytest.approx((first + second) / (timing.end[5] - timing.start[4]))


def test_no_product_no_share():
    program = parse_program(".target npu-v1\n" + MOVES.format(at=0))
    assert math.isnan(matrix_span_busy(program, time_program(program)))


BASE = Outcome("m", "", 1.0, 0.9, 1000.0)


@pytest.mark.parametrize(
    ("outcome", "worse"),
    [
        (Outcome("m", "P", 1.0, 0.9, 1000.0), False),
        (Outcome("m", "P", 1.0, 0.9, 1000.9), False),
        (Outcome("m", "P", 1.0, 0.9, 1002.0), True),
        (Outcome("m", "P", 0.9, 0.9, 1000.0), True),
        (Outcome("m", "P", 1.0, 0.8, 900.0), True),
        (Outcome("m", "P", 1.0, 0.9, 1000.0, 1), True),
        (Outcome("m", "P", error="Infeasible: l1"), True),
    ],
)
def test_when_a_pass_matters(outcome, worse):
    assert outcome.worse_than(BASE) is worse


def test_nothing_is_worse_than_a_model_that_does_not_compile():
    assert not Outcome("m", "P", error="UserError: x").worse_than(Outcome("m", "", error="UserError: x"))


def test_the_ideals_of_the_peers_are_their_macs():
    for peer in PEERS:
        macs = int(np.prod(peer.weights)) * peer.size**2
        assert macs / 1024 == pytest.approx(peer.ideal, rel=0.03)


def test_commands_are_listed():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in ("product", "convolution", "resnet18", "prediction", "ablation", "handwritten", "opcodes", "race"):
        assert name in result.output


def test_an_unknown_option_is_refused():
    assert CliRunner().invoke(main, ["product", "--nothing"]).exit_code == 2
