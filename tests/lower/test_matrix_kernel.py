"""The matrix kernel in every mode, level 3 on the CPU and level 5 on the simulator, against NumPy."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsa_compiler.isa.table import OPCODES
from dsa_compiler.lower.matrix_problem import MatrixProblem, MatrixTiling, ceil_div
from dsa_compiler.lower.matrix_tiling import MatrixTraffic, rank_matrix_tilings
from dsa_compiler.simulator.timing import time_program
from tests.lower.drawing import drawn
from tests.lower.matrix import Form, check_matrix
from tests.lower.parts import part

CONV = MatrixProblem(1, 2, 13, 11, 16, 13, 11, 40, (3, 3), (1, 1), (1, 1), (1, 1))
STRIDED = MatrixProblem(2, 1, 13, 11, 16, 7, 6, 20, (3, 3), (2, 2), (1, 1), (1, 1))
DILATED = MatrixProblem(1, 1, 17, 19, 8, 7, 5, 19, (3, 3), (1, 2), (5, 4), (0, 1))
TALL = MatrixProblem(1, 1, 12, 7, 32, 12, 3, 24, (5, 2), (1, 2), (1, 3), (2, 0))
PRODUCT = MatrixProblem(1, 1, 67, 1, 131, 67, 1, 37)
BATCHED = MatrixProblem(3, 1, 29, 1, 40, 29, 1, 23)
WIDE = MatrixProblem(1, 1, 31, 1, 64, 31, 1, 160)

CASES = {
    "padding_and_batch": (
        "single",
        CONV,
        MatrixTiling((1, 1, 1), 5, 11, 2, 11, 16, 2, (3, 3), 16),
        Form(bias=True, relu=True),
    ),
    "kernel_rows_as_chunks": (
        "narrow",
        CONV,
        MatrixTiling((1, 1, 1), 4, 11, 2, 11, 40, 1, (1, 3), 16),
        Form(bias=True),
    ),
    "taps_as_chunks": ("narrow", CONV, MatrixTiling((1, 1, 1), 4, 8, 1, 4, 40, 1, (1, 1), 16), Form(relu=True)),
    "piece_outside": (
        "four",
        CONV,
        MatrixTiling((1, 4, 1), 4, 4, 1, 3, 16, 2, (3, 3), 16, panel_outer=False),
        Form(bias=True),
    ),
    "groups": (
        "four",
        STRIDED,
        MatrixTiling((2, 2, 1), 3, 6, 2, 3, 16, 1, (3, 3), 16, panel_outer=False),
        Form(bias=True),
    ),
    "groups_one_core": ("narrow", STRIDED, MatrixTiling((1, 1, 1), 7, 6, 3, 6, 8, 3, (1, 3), 16, ring_b=2), Form()),
    "dilation": ("four", DILATED, MatrixTiling((1, 2, 2), 3, 5, 3, 5, 16, 1, (3, 3), 8), Form(bias=True)),
    "stride_and_dilation_by_taps": (
        "tiny",
        DILATED,
        MatrixTiling((1, 1, 1), 1, 3, 1, 3, 8, 1, (1, 1), 8, ring_b=2),
        Form(),
    ),
    "even_kernel": ("plain", TALL, MatrixTiling((1, 3, 1), 4, 3, 4, 3, 16, 2, (1, 2), 32), Form(residual="full")),
    "streamed_left": (
        "plain",
        WIDE,
        MatrixTiling((1, 3, 1), 8, 1, 8, 1, 32, 5, (1, 1), 16, stream_a=True, ring_a=3),
        Form(bias=True),
    ),
    "streamed_right": (
        "plain",
        WIDE,
        MatrixTiling((1, 1, 3), 16, 1, 8, 1, 32, 2, (1, 1), 16, stream_b=True, ring_b=3),
        Form(bias=True),
    ),
    "streamed_both": (
        "four",
        PRODUCT,
        MatrixTiling((1, 2, 2), 16, 1, 16, 1, 16, 2, (1, 1), 48, stream_a=True, stream_b=True, ring_a=3, ring_b=3),
        Form(relu=True),
    ),
    "streamed_convolution": (
        "single",
        TALL,
        MatrixTiling((1, 1, 1), 4, 3, 4, 3, 16, 2, (5, 2), 16, stream_a=True, stream_b=True, ring_a=2, ring_b=2),
        Form(bias=True),
    ),
    "prime_sizes": (
        "plain",
        PRODUCT,
        MatrixTiling((1, 3, 1), 16, 1, 16, 1, 16, 1, (1, 1), 64, panel_outer=False, ring_b=2),
        Form(bias=True, relu=True),
    ),
    "more_cores_than_pieces": (
        "four",
        PRODUCT,
        MatrixTiling((1, 4, 1), 32, 1, 16, 1, 37, 1, (1, 1), 131),
        Form(residual="column"),
    ),
    "right_from_ddr": (
        "four",
        BATCHED,
        MatrixTiling((2, 2, 1), 8, 1, 8, 1, 16, 2, (1, 1), 16, panel_outer=False, ring_b=2),
        Form(constant_b=False),
    ),
    "right_transposed": (
        "four",
        BATCHED,
        MatrixTiling((3, 1, 1), 16, 1, 16, 1, 16, 1, (1, 1), 32),
        Form(constant_b=False, b_transposed=True),
    ),
    "right_transposed_streamed": (
        "narrow",
        BATCHED,
        MatrixTiling((1, 1, 1), 32, 1, 8, 1, 16, 2, (1, 1), 16, stream_b=True, ring_b=3),
        Form(constant_b=False, b_transposed=True),
    ),
    "right_streamed": (
        "plain",
        BATCHED,
        MatrixTiling((3, 1, 1), 32, 1, 8, 1, 16, 2, (1, 1), 16, stream_b=True, ring_b=3),
        Form(constant_b=False),
    ),
    "left_transposed": (
        "four",
        BATCHED,
        MatrixTiling((3, 1, 1), 32, 1, 16, 1, 24, 1, (1, 1), 40),
        Form(a_transposed=True, bias=True),
    ),
    "both_transposed": (
        "narrow",
        BATCHED,
        MatrixTiling((1, 1, 1), 29, 1, 29, 1, 24, 1, (1, 1), 32),
        Form(constant_b=False, a_transposed=True, b_transposed=True, relu=True),
    ),
    "row_operand": (
        "four",
        BATCHED,
        MatrixTiling((3, 1, 1), 15, 1, 15, 1, 16, 2, (1, 1), 40),
        Form(residual="row", relu=True),
    ),
    "all_operands_small_rings": (
        "single",
        CONV,
        MatrixTiling((1, 1, 1), 3, 11, 3, 11, 16, 3, (3, 3), 16, ring_a=1, ring_out=1, ring_l0=1, ring_acc=1),
        Form(bias=True, residual="full", relu=True),
    ),
    "wide_result": (
        "single",
        PRODUCT,
        MatrixTiling((1, 1, 1), 32, 1, 16, 1, 16, 3, (1, 1), 131),
        Form(bias=True, out_dtype="float32"),
    ),
    "one_row": (
        "four",
        MatrixProblem(1, 1, 1, 1, 100, 1, 1, 101),
        MatrixTiling((1, 1, 4), 1, 1, 1, 1, 16, 2, (1, 1), 100),
        Form(bias=True),
    ),
    "one_column": (
        "four",
        MatrixProblem(1, 1, 50, 1, 100, 50, 1, 1),
        MatrixTiling((1, 4, 1), 16, 1, 16, 1, 16, 1, (1, 1), 100),
        Form(bias=True),
    ),
    "one_channel_image": (
        "single",
        MatrixProblem(1, 1, 9, 7, 4, 9, 7, 16, (3, 3), pad=(1, 1), source_channels=3),
        MatrixTiling((1, 1, 1), 9, 7, 3, 7, 16, 1, (3, 3), 4),
        Form(bias=True),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_mode(name: str) -> None:
    target, problem, tiling, form = CASES[name]
    check_matrix(problem, tiling, part(target), form, llvm=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_floats(dtype: str) -> None:
    problem = MatrixProblem(1, 1, 7, 5, 8, 7, 5, 13, (3, 3), pad=(1, 1), dtype=dtype)
    check_matrix(
        problem,
        MatrixTiling((1, 1, 1), 4, 5, 2, 5, 16, 1, (3, 3), 8),
        part("single"),
        Form(bias=True, relu=True),
        llvm=dtype == "float32",
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_integers_are_exact(dtype: str) -> None:
    problem = MatrixProblem(1, 1, 19, 1, 70, 19, 1, 33, dtype=dtype, accumulator="int32")
    run = check_matrix(
        problem,
        MatrixTiling((1, 1, 1), 16, 1, 16, 1, 32, 2, (1, 1), 64),
        part("single"),
        Form(out_dtype="int32"),
        llvm=True,
        tolerance=0,
    )
    assert {"matmul", "matmul_acc"} <= set(run.opcodes())


INTEGER_CASES = {
    "signed_by_unsigned": (
        "single",
        replace(PRODUCT, dtype="int8", right_dtype="uint8", accumulator="int32", zero_b=119),
        MatrixTiling((1, 1, 1), 16, 1, 16, 1, 32, 2, (1, 1), 64),
        Form(bias=True, out_dtype="int32"),
    ),
    "unsigned_by_signed": (
        "four",
        replace(CONV, dtype="uint8", right_dtype="int8", accumulator="int32", pad_value=131),
        MatrixTiling((1, 4, 1), 4, 4, 1, 3, 32, 2, (3, 3), 16, panel_outer=False),
        Form(bias=True, out_dtype="uint8", zero_point=3),
    ),
    "padding_and_zero_of_weights": (
        "four",
        replace(DILATED, dtype="uint8", accumulator="int32", pad_value=7, zero_b=200),
        MatrixTiling((1, 2, 1), 3, 5, 3, 5, 32, 1, (3, 3), 8),
        Form(bias=True, out_dtype="uint8", zero_point=131),
    ),
    "groups": (
        "narrow",
        replace(STRIDED, dtype="int8", accumulator="int32", pad_value=-7),
        MatrixTiling((1, 1, 1), 7, 6, 3, 6, 32, 1, (1, 3), 16, ring_b=2),
        Form(out_dtype="int8", zero_point=-11),
    ),
    "channels_that_are_missing": (
        "plain",
        MatrixProblem(1, 1, 9, 7, 8, 9, 7, 19, (3, 3), pad=(1, 1), dtype="int8", accumulator="int32",
                      source_channels=5, right_dtype="uint8", pad_value=-128, zero_b=77),
        MatrixTiling((1, 3, 1), 3, 7, 3, 7, 32, 1, (3, 3), 8),
        Form(bias=True, out_dtype="int32"),
    ),
    "two_activations": (
        "four",
        replace(BATCHED, dtype="int8", accumulator="int32"),
        MatrixTiling((3, 1, 1), 32, 1, 16, 1, 32, 1, (1, 1), 32),
        Form(constant_b=False, b_transposed=True, out_dtype="int32"),
    ),
    "streamed_with_zero_point": (
        "npu-edge",
        replace(PRODUCT, dtype="uint8", accumulator="int32", zero_b=1),
        MatrixTiling((1, 1, 1), 16, 1, 16, 1, 32, 2, (1, 1), 64, stream_a=True, stream_b=True, ring_a=3, ring_b=3),
        Form(bias=True, out_dtype="int8", zero_point=0),
    ),
    "float_result": (
        "single",
        replace(PRODUCT, dtype="int8", accumulator="int32"),
        MatrixTiling((1, 1, 1), 16, 1, 16, 1, 48, 2, (1, 1), 131),
        Form(bias=True, out_dtype="float32"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGER_CASES)
def test_integer_mode(name: str) -> None:
    target, problem, tiling, form = INTEGER_CASES[name]
    run = check_matrix(problem, tiling, part(target), form, llvm=True, tolerance=0)
    products = {op for op in run.opcodes() if op.startswith("matmul")}
    assert bool(problem.zero_b) == any(op.endswith("_zp") for op in products)
    if form.zero_point is not None:
        vector = {op for op in run.opcodes() if OPCODES[op].engine == "vector"}
        assert vector == {"requantize"}


def test_windows_are_gathered_on_the_way_to_l0a() -> None:
    target, problem, tiling, form = CASES["padding_and_batch"]
    run = check_matrix(problem, tiling, part(target), form)
    names = run.opcodes()
    assert names["img2col"] == names["matmul_bias"] + names.get("matmul_acc", 0)
    assert "load_pad" in names


def test_equal_loads_of_cores_are_multicast() -> None:
    _, problem, _, form = CASES["padding_and_batch"]
    shared = MatrixTiling((1, 2, 2), 5, 11, 2, 11, 16, 1, (3, 3), 16)
    names = check_matrix(problem, shared, part("four"), form).opcodes()
    assert names["load_multicast"] > 0 and names["load_pad_multicast"] > 0
    apart = MatrixTiling((1, 3, 1), 5, 11, 1, 11, 16, 1, (1, 3), 16)
    names = check_matrix(problem, apart, part("plain"), form).opcodes()
    assert not {"load_multicast", "load_pad_multicast"} & set(names)


def test_double_buffering_hides_transfers() -> None:
    problem = MatrixProblem(1, 1, 128, 1, 256, 128, 1, 64)
    slow, fast = (
        check_matrix(
            problem,
            MatrixTiling((1, 1, 1), 32, 1, 32, 1, 64, 1, (1, 1), 64, ring_a=r, ring_out=r, ring_l0=r, ring_acc=r),
            part("single"),
            seeds=(),
        )
        for r in (1, 2)
    )
    assert time_program(fast.program).cycles < 0.8 * time_program(slow.program).cycles


PRIMES = st.sampled_from([1, 2, 3, 5, 7, 11, 13, 17])
PARTS = st.sampled_from(["four", "plain", "narrow", "tiny", "single", "npu-edge", "npu-bench", "npu-v2"])


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[MatrixProblem, Form]:
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 5), (2, 2), (3, 1)]))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 2)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 3)]))
    out = draw(PRIMES), draw(PRIMES)
    pad = draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1))
    behind = draw(st.integers(0, pad[0])), draw(st.integers(0, pad[1]))
    extents = [
        (o - 1) * s + (k - 1) * d + 1 - p - e
        for o, s, k, d, p, e in zip(out, stride, kernel, dilation, pad, behind, strict=True)
    ]
    assume(min(extents) >= 1)
    dtype = draw(st.sampled_from(["float16", "float32"]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = draw(st.sampled_from([8, 16, 20, 40] if groups > 1 else [3, 5, 8, 16, 17, 32, 40]))
    unit = 4 if dtype == "float16" else 2
    padded = ceil_div(channels, unit) * unit if kernel != (1, 1) else channels
    problem = MatrixProblem(
        groups,
        draw(st.integers(1, 3)),
        extents[0],
        extents[1],
        padded,
        out[0],
        out[1],
        draw(st.sampled_from([1, 5, 16, 19, 37, 64])),
        kernel,
        stride,
        dilation,
        pad,
        dtype,
        source_channels=channels if padded != channels else 0,
    )
    return problem, Form(
        bias=draw(st.booleans()),
        residual=draw(st.sampled_from(["", "full", "row", "column"])),
        relu=draw(st.booleans()),
    )


@st.composite
def products(draw: st.DrawFn) -> tuple[MatrixProblem, Form]:
    m, k, n = (
        draw(st.sampled_from([1, 7, 16, 31, 67])),
        draw(st.sampled_from([1, 5, 16, 29, 64, 131])),
        draw(st.sampled_from([1, 7, 16, 37, 101])),
    )
    constant = draw(st.booleans())
    form = Form(
        constant_b=constant,
        bias=constant and draw(st.booleans()),
        a_transposed=draw(st.booleans()),
        b_transposed=not constant and draw(st.booleans()),
        residual=draw(st.sampled_from(["", "full", "row", "column"])),
        relu=draw(st.booleans()),
    )
    return MatrixProblem(
        draw(st.sampled_from([1, 1, 2, 3, 5])), 1, m, 1, k, m, 1, n, dtype=draw(st.sampled_from(["float16", "float32"]))
    ), form


@st.composite
def integer_cases(draw: st.DrawFn) -> tuple[MatrixProblem, Form]:
    """A convolution or product of integers of either signedness, with zero points, to any result."""
    problem, form = draw(st.one_of(convolutions(), products()))
    left, right = draw(st.sampled_from(["int8", "uint8"])), draw(st.sampled_from(["int8", "uint8"]))
    channels = problem.source_channels or problem.channels
    padded = ceil_div(channels, 8) * 8 if problem.kernel != (1, 1) else channels
    assume(problem.batches == 1 or padded == channels or problem.kernel == (1, 1))
    problem = replace(
        problem, channels=padded, source_channels=channels if padded != channels else 0,
        dtype=left, right_dtype=right, accumulator="int32",
        pad_value=draw(st.integers(-128, 127) if left == "int8" else st.integers(0, 255)),
        zero_b=draw(st.sampled_from([0, 128, 255])) if right == "uint8" else 0,
    )  # fmt: skip
    out = draw(st.sampled_from(["int8", "uint8", "int32", "float32"]))
    narrow = out in ("int8", "uint8")
    zero = draw(st.integers(-128, 127) if out == "int8" else st.integers(0, 255)) if narrow else None
    return problem, replace(form, residual="", relu=False, out_dtype=out, zero_point=zero)


def check_ranked(problem: MatrixProblem, form: Form, name: str, place: float) -> None:
    """Check the tiling that stands `place` (0: best, 1: last) of the way down the ranking."""
    target = part(name)
    large = int(form.residual in ("full", "column"))
    traffic = MatrixTraffic(
        form.out_dtype or problem.dtype, large, 1, form.constant_b, form.bias, form.a_transposed, form.b_transposed
    )
    ranked = rank_matrix_tilings(problem, traffic, target)
    assert ranked, "no tiling fits"
    exact = {"tolerance": 0.0} if problem.accumulator == "int32" and form.out_dtype != "float32" else {}
    check_matrix(problem, ranked[math.floor(place * (len(ranked) - 1))][1], target, form, seeds=(1,), **exact)


@drawn(30)
@given(convolutions(), PARTS, st.sampled_from([0.0, 0.05, 0.3, 1.0]))
def test_any_tiling_of_any_convolution(case: tuple[MatrixProblem, Form], name: str, place: float) -> None:
    check_ranked(*case, name, place)


@drawn(30)
@given(products(), PARTS, st.sampled_from([0.0, 0.05, 0.3, 1.0]))
def test_any_tiling_of_any_product(case: tuple[MatrixProblem, Form], name: str, place: float) -> None:
    check_ranked(*case, name, place)


@drawn(40)
@given(integer_cases(), PARTS, st.sampled_from([0.0, 0.05, 0.3, 1.0]))
def test_any_tiling_of_any_integers(case: tuple[MatrixProblem, Form], name: str, place: float) -> None:
    check_ranked(*case, name, place)


def test_problem_extents() -> None:
    assert (CONV.rows_in(5), CONV.columns_in(1), CONV.padded) == (7, 3, True)
    assert (DILATED.rows_in(7), DILATED.columns_in(5)) == (17, 17)
    assert MatrixProblem(1, 1, 8, 8, 4, 6, 6, 4, (3, 3)).padded is False
    assert MatrixProblem(1, 1, 8, 8, 4, 7, 6, 4, (3, 3)).padded is True
    assert CONV.macs == 2 * 13 * 11 * 40 * 16 * 9
