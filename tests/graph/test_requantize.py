"""JoinQuantization: factors, addends and bounds in front of a quantisation, and what it leaves."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax
from tvm.script import relax as R

from dsa_compiler.frontend.importer import INPUTS, OUTPUTS
from dsa_compiler.graph import run_relax
from dsa_compiler.graph.calls import op_name, plain
from dsa_compiler.graph.requantize import join_quantization
from dsa_compiler.graph.rewriter import bindings_of

VALUES = {"x": np.random.default_rng(1).uniform(-9, 9, (5, 3)).astype(np.float32)}
ROW = np.asarray([0.5, 2.0, 3.0], np.float32)


def quantized(middle, zero=3.0, low=0.0, high=255.0, dtype="uint8", twice=False):
    """astype(clip(round(middle(x)) + zero)) of x [5, 3]; `twice`: what is rounded is also a result."""
    x = relax.Var("x", R.Tensor((5, 3), "float32"))
    bb = relax.BlockBuilder()
    with bb.function("main", [x]):
        with bb.dataflow():
            value = middle(bb, x)
            y = bb.emit(relax.op.round(value))
            y = bb.emit(relax.op.add(y, relax.const(zero, "float32"))) if zero else y
            y = bb.emit(relax.op.astype(bb.emit(relax.op.clip(y, low, high)), dtype))
            result = bb.emit_output(relax.Tuple([y, value]) if twice else y)
        bb.emit_func_output(result)
    mod = bb.get()
    mod["main"] = mod["main"].with_attrs({INPUTS: ["x"], OUTPUTS: ["y", "v"] if twice else ["y"]})
    return mod


def calls(mod):
    return [b.value for b in bindings_of(mod["main"]) if op_name(b.value)]


def names(mod):
    return [op_name(c) for c in calls(mod)]


def bounds(mod):
    return tuple(plain(a) for a in next(c for c in calls(mod) if op_name(c) == "clip").args[1:])


def check(before, expected, limits):
    after = join_quantization(before)
    assert names(after) == expected
    assert bounds(after) == limits
    got, want = (next(iter(run_relax(m, VALUES).values())).astype(int) for m in (after, before))
    assert np.abs(got - want).max() <= 1 and (got != want).mean() < 0.05
    return after


def mul(bb, x, value):
    return bb.emit(relax.op.multiply(x, relax.const(np.asarray(value, np.float32))))


def add(bb, x, value):
    return bb.emit(relax.op.add(x, relax.const(np.asarray(value, np.float32))))


def relu(bb, x):
    return bb.emit(relax.op.nn.relu(x))


def clip(bb, x, low, high):
    return bb.emit(relax.op.clip(x, low, high))


def test_relu_becomes_a_bound_and_factors_join():
    before = quantized(lambda bb, x: mul(bb, relu(bb, mul(bb, x, ROW)), 2.0))
    check(before, ["multiply", "round", "add", "clip", "astype"], (3.0, 255.0))


def test_relu_at_the_lowest_zero_point_vanishes():
    before = quantized(lambda bb, x: relu(bb, x), zero=-128.0, low=-128.0, high=127.0, dtype="int8")
    check(before, ["round", "add", "clip", "astype"], (-128.0, 127.0))


def test_bounds_are_scaled_and_rounded():
    before = quantized(lambda bb, x: mul(bb, clip(bb, x, -1.0, 6.0), 2.3))
    check(before, ["multiply", "round", "add", "clip", "astype"], (1.0, 17.0))


def test_a_bias_joins_in_front_of_bounds():
    before = quantized(lambda bb, x: mul(bb, relu(bb, add(bb, mul(bb, x, ROW), ROW)), 0.7), zero=0.0)
    check(before, ["multiply", "add", "round", "clip", "astype"], (0.0, 255.0))


def test_bounds_that_never_meet_leave_one_value():
    before = quantized(lambda bb, x: clip(bb, relu(bb, x), -5.0, -2.0), zero=130.0)
    check(before, ["round", "add", "clip", "astype"], (128.0, 128.0))


@pytest.mark.parametrize(
    "middle",
    [
        lambda bb, x: mul(bb, x, 2.0),  # nothing to join
        lambda bb, x: mul(bb, clip(bb, x, -1.0, 6.0), ROW),  # bounds that differ by channel
        lambda bb, x: mul(bb, relu(bb, x), -1.0),  # turns the order round
        lambda bb, x: add(bb, relu(bb, x), 1.5),  # behind a bound
    ],
)
def test_left_unchanged(middle):
    before = quantized(middle)
    assert names(join_quantization(before)) == names(before)


def test_other_uses_of_what_is_in_between_are_left_unchanged():
    before = quantized(lambda bb, x: relu(bb, x), twice=True)
    assert names(join_quantization(before)) == names(before)


def test_values_that_are_not_quantised_are_left_unchanged():
    for dtype in ("int32", "float16"):
        before = quantized(lambda bb, x: relu(bb, x), dtype=dtype)
        assert names(join_quantization(before)) == names(before)


def test_fractions_behind_the_rounding_are_left_unchanged():
    before = quantized(lambda bb, x: relu(bb, x), zero=0.5)
    assert names(join_quantization(before)) == names(before)


def test_a_factor_goes_into_the_scales_of_a_sum():
    before = quantized(lambda bb, x: mul(bb, relu(bb, bb.emit(relax.op.add(mul(bb, x, ROW), mul(bb, x, 0.3)))), 2.0))
    after = check(before, ["multiply", "multiply", "add", "round", "add", "clip", "astype"], (3.0, 255.0))
    factors = [c.args[1].value.numpy() for c in calls(after) if op_name(c) == "multiply"]
    assert np.allclose(factors[0], ROW * 2) and np.allclose(factors[1], 0.6)


def test_a_factor_of_a_sum_of_which_one_part_is_not_scaled_stays():
    before = quantized(lambda bb, x: mul(bb, relu(bb, bb.emit(relax.op.add(mul(bb, x, ROW), relu(bb, x)))), 2.0))
    check(before, ["multiply", "nn.relu", "add", "multiply", "round", "add", "clip", "astype"], (3.0, 255.0))
