"""Requantising chains of layers: which calls they are, and the layers that hold them, exact on several parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dsa_compiler.graph.layers import OpCall
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.lower.matrix_layer import takes_diagonals
from dsa_compiler.lower.requantize import requantizations, with_scale_operands
from tests.lower.networks import Network, call, check_layer, layer, repeated
from tests.lower.parts import part

PARTS = ("narrow", "npu-v2")
LIMITS = {"int8": (-128.0, 127.0), "uint8": (0.0, 255.0)}


def requantized(
    first: int, source: str | int, shape: tuple[int, ...], scale: Any, *, zero_in: int = 0, zero: int = 3,
    dtype: str = "int8", bounds: tuple[float, float] | None = None,
) -> list[OpCall]:  # fmt: skip
    """Calls, of which the first has the number `first`, that requantise `source`."""
    calls: list[OpCall] = []

    def after(op: str, *args: Any, kind: str = "float32", **attrs: Any) -> None:
        previous = f"%{first + len(calls) - 1}" if calls else source
        calls.append(call(op, [previous, *args], shape, kind, **attrs))

    after("astype")
    if zero_in:
        after("add", ("const", float(-zero_in)))
    after("multiply", scale)
    after("round")
    if zero:
        after("add", ("const", float(zero)))
    low, high = bounds or LIMITS[dtype]
    after("clip", min=low, max=high)
    after("astype", kind=dtype)
    return calls


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize(
    ("zero_in", "dtype", "bounds"), [(0, "int8", None), (117, "uint8", None), (9, "int8", (3, 90))]
)
def test_bytes_to_bytes(name: str, zero_in: int, dtype: str, bounds: tuple[float, float] | None) -> None:
    network, shape = Network(), (5, 7, 19)
    x = network.source("x", shape, "uint8", low=0, high=255)
    y = network.result("y", shape, dtype)
    calls = requantized(0, 0, shape, ("const", 0.37), zero_in=zero_in, dtype=dtype, bounds=bounds)
    made = layer("elementwise", calls, [x], y, master=len(calls) - 1)
    run = check_layer(network, made, part(name), llvm=True, tolerance=0)
    vector = {op for op in run.opcodes() if OPCODES[op].engine == "vector"}
    assert vector == {"requantize", "sub_scalar" if zero_in else "cast", *(["clip"] if bounds else [])}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("by_channel", [False, True])
def test_matrix_products(name: str, by_channel: bool) -> None:
    network, shape = Network(), (1, 9, 11, 21)
    x = network.source("x", (1, 9, 11, 13), "uint8", low=0, high=255)
    w = network.given("w", (1, 1, 13, 21), "int8")
    b = network.given("b", (21,), "int32", np.arange(-10, 11, dtype=np.int32) * 100)
    inputs = [x, w, repeated(b, shape)]
    if by_channel:
        inputs.append(
            repeated(network.given("s", (21,), "float32", np.linspace(0.01, 0.2, 21, dtype=np.float32)), shape)
        )
    y = network.result("y", shape, "uint8")
    conv = call("nn.conv2d", [0, 1], shape, "int32", strides=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)
    calls = [conv, call("add", ["%0", 2], shape, "int32")]
    scale = 3 if by_channel else ("const", 0.055)
    calls += requantized(2, "%1", shape, scale, zero=100, dtype="uint8")
    run = check_layer(network, layer("conv2d", calls, inputs, y), part(name), llvm=True, tolerance=0)
    assert not {"round", "mul_scalar", "cast_saturate"} & set(run.opcodes())
    assert run.opcodes()["requantize"] == run.opcodes()["matmul_bias"]


TAPS = {
    "signed": ("int8", -128, 127, "matrix"),
    "with_a_zero_point": ("int16", -200, 55, "matrix"),
    "not_negative": ("int16", 0, 255, "matrix"),
    "too_wide": ("int16", -255, 127, "vector"),
}


@pytest.mark.parametrize("rank", [0, 7])
@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("kind", TAPS)
@pytest.mark.parametrize(("channels", "pad"), [(35, 131), (3, 0)])
def test_depthwise(name: str, kind: str, channels: int, pad: int, rank: int) -> None:
    network, shape = Network(), (2, 6, 5, channels)
    dtype, low, high, engine = TAPS[kind]
    x = network.source("x", (2, 11, 9, channels), "uint8", low=0, high=255)
    values = np.random.default_rng(3).integers(low, high, (3, 3, 1, channels), endpoint=True)
    values.reshape(-1)[:2] = low, high
    w = network.given("w", (3, 3, 1, channels), dtype, values.astype(dtype))
    b = repeated(network.given("b", (channels,), "int32"), shape)
    y = network.result("y", shape, "int8")
    conv = call("nn.conv2d", [0, 1], shape, "int32", strides=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1),
                groups=channels, **({"pad_value": pad} if pad else {}))  # fmt: skip
    calls = [conv, call("add", ["%0", 2], shape, "int32"), *requantized(2, "%1", shape, ("const", 0.0021))]
    made = layer("depthwise", calls, [x, w, b], y)
    run = check_layer(network, made, part(name), rank=rank, llvm=rank == 0, tolerance=0)
    assert ("depthwise" in run.opcodes()) == (engine == "vector")
    assert any(op.startswith("matmul_bias") for op in run.opcodes()) == (engine == "matrix")
    if engine == "matrix":
        assert run.opcodes()["select"] > 0


def test_depthwise_stays_on_the_vector_engine_where_no_move_gathers_windows() -> None:
    target = part("narrow")
    lacking = replace(target, features=replace(target.features, img2col_move=False))
    network, shape = Network(), (1, 4, 4, 8)
    x, y = network.source("x", shape, "int8"), network.result("y", shape, "int32")
    w = network.given("w", (1, 1, 1, 8), "int8")
    conv = call("nn.conv2d", [0, 1], shape, "int32", strides=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=8)
    made = layer("depthwise", [conv], [x, w], y)
    assert takes_diagonals(made, network.graph(made), target)
    assert not takes_diagonals(made, network.graph(made), lacking)
    floats = network.source("f", shape, "float16")
    assert not takes_diagonals(layer("depthwise", [conv], [floats, w], y), network.graph(made), target)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pools_of_bytes(name: str, dtype: str) -> None:
    network, shape = Network(), (1, 6, 6, 19)
    x = network.source("x", (1, 11, 11, 19), dtype, low=-100 if dtype == "int8" else 0, high=100)
    y = network.result("y", shape, dtype)
    attrs = {"pool_size": (3, 3), "strides": (2, 2), "padding": (1, 1, 1, 1), "dilation": (1, 1), "layout": "NHWC"}
    made = layer("pool", [call("nn.max_pool2d", [0], shape, dtype, **attrs)], [x], y)
    check_layer(network, made, part(name), llvm=True, tolerance=0)


def test_what_is_no_requantisation() -> None:
    shape = (4, 4)
    good = requantized(0, 0, shape, ("const", 0.5))
    assert [r.scale for r in requantizations(good, ["int32"])] == [1]
    assert [r.calls for r in requantizations(good, ["int32"])] == [(5, 4, 3, 2, 1)]
    assert requantizations(good) and not requantizations(good, ["float32"])
    used_twice = [*good, call("astype", ["%2"], shape, "int32")]
    assert not requantizations(used_twice, ["int32"])
    for place, other in (
        (4, call("clip", ["%3"], shape, "float32", min=-128.5, max=127.0)),
        (4, call("clip", ["%3"], shape, "float32", min=-129.0, max=127.0)),
        (3, call("add", ["%2", ("const", 0.5)], shape, "float32")),
        (2, call("floor", ["%1"], shape, "float32")),
        (1, call("multiply", ["%0", "%0"], shape, "float32")),
        (0, call("copy", [0], shape, "float32")),
    ):
        assert not requantizations([*good[:place], other, *good[place + 1 :]], ["int32"])


def test_scales_become_operands() -> None:
    network, shape = Network(), (3, 5)
    x, y = network.source("x", shape, "int32"), network.result("y", shape, "int8")
    made = layer("elementwise", requantized(0, 0, shape, ("const", 0.25)), [x], y, master=5)
    changed, graph = with_scale_operands(made, network.graph(made))
    (scale,) = changed.inputs[1:]
    assert graph.tensors[scale.tensor].value.tolist() == [0.25] and scale.strides == ((0, 0), (0, 0))
    assert changed.calls[1].args[1] == ("input", 1)
    again = with_scale_operands(changed, graph)
    assert again == (changed, graph)


@pytest.mark.parametrize("name", PARTS)
def test_sums_of_bytes_less_their_zero_points(name: str) -> None:
    network, shape = Network(), (3, 5, 21)
    x, z = network.source("x", shape, "uint8", low=0, high=255), network.source("z", shape, "int8", low=-128, high=127)
    y = network.result("y", shape, "float32")
    calls: list[OpCall] = []
    for number, zero, scale in ((0, 100.0, 0.3), (1, -7.0, 0.21)):
        first = len(calls)
        calls += [call("astype", [number], shape, "float32"),
                  call("add", [f"%{first}", ("const", -zero)], shape, "float32"),
                  call("multiply", [f"%{first + 1}", ("const", scale)], shape, "float32")]  # fmt: skip
    calls.append(call("add", ["%2", "%5"], shape, "float32"))
    made = layer("elementwise", calls, [x, z], y, master=6)
    run = check_layer(network, made, part(name), llvm=True, tolerance=1e-6)
    assert {op for op in run.opcodes() if OPCODES[op].engine == "vector"} == {"dequantize", "add"}
