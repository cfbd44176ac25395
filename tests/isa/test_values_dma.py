"""Copies, moves and matrix products against loops and hand-written vectors."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from dsa_compiler.errors import UserError

DTYPES = ("float32", "float16", "bfloat16", "float8_e4m3fn", "int32", "int16", "int8", "uint8", "bool")
SHAPES = ((14,), (3, 5), (2, 3, 5))
COPIES = ("load", "load_multicast", "store", "prefetch", "prefetch_multicast", "move_a", "move_b")
PADS = ("load_pad", "load_pad_multicast", "store_pad", "prefetch_pad")
FILLS = ("load_fill", "store_fill", "prefetch_fill")
TRANSPOSES = ("load_transpose", "move_a_transpose", "move_b_transpose")
MATRIX = ("matmul", "matmul_acc", "matmul_bias", "matmul_zp", "matmul_acc_zp", "matmul_bias_zp", "matmul_sparse",
          "matmul_sparse_acc", "matmul_sparse_bias")  # fmt: skip
ORACLES = {*COPIES, *PADS, *FILLS, *TRANSPOSES, *MATRIX, "load_gather", "store_scatter", "store_round", "img2col"}


def numbers(shape, seed=0):
    """Small whole numbers, exact in every dtype."""
    return np.random.default_rng(seed).integers(0, 8, shape)


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("op", COPIES)
def test_copy(isa, op, shape):
    for dtype in DTYPES:
        x = numbers(shape)
        result = isa.run(op, {"src": (x, dtype)}, dst=(shape, dtype))
        assert result.tolist() == (x != 0 if dtype == "bool" else x).tolist()


def test_copy_between_views(isa):
    """As many elements in the same order, whatever the views."""
    x = numbers((3, 5))
    result = isa.run("load", {"src": (x, "int8")}, dst=((15,), "int8"))
    assert result.tolist() == [v for row in x.tolist() for v in row]


def test_copy_keeps_bits(isa):
    x = np.array([0x7C01, 0x8000, 0xFFFF, 0x0001], np.uint16).view(np.float16)
    assert isa.run("load", {"src": (x, "float16")}, dst=((4,), "float16")).view(np.uint16).tolist() == [
        0x7C01, 0x8000, 0xFFFF, 1,
    ]  # fmt: skip


def test_copy_int4(isa):
    x = [-8, 7, 0, -1]
    assert isa.run("load", {"src": (x, "int4")}, dst=((4,), "int4")).tolist() == x


@pytest.mark.parametrize("op", PADS)
def test_pad(isa, op):
    cases = (
        ([1, 2], [[1, 2]], [9, 1, 2, 9, 9]),
        ([[1, 2], [3, 4]], [[1, 0], [0, 1]], [[9, 9, 9], [1, 2, 9], [3, 4, 9]]),
        ([[[1], [2]]], [[0, 1], [0, 0], [1, 0]], [[[9, 1], [9, 2]], [[9, 9], [9, 9]]]),
    )
    for src, pad, expected in cases:
        for dtype in ("float16", "int8", "int32"):
            shape = np.shape(expected)
            assert isa.run(op, {"src": (src, dtype)}, {"pad": pad, "value": 9}, (shape, dtype)).tolist() == expected
    low = isa.run(op, {"src": ([1.0], "float16")}, {"pad": [[1, 0]], "value": "-inf"}, ((2,), "float16"))
    assert low.tolist() == [-math.inf, 1.0]


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [("int8", 300, 127), ("uint8", -1.5, 0), ("int32", "inf", 2**31 - 1), ("int8", "nan", 0), ("int16", 2.9, 2),
     ("bool", 0.5, True), ("int32", 2**24 + 1, 2**24 + 1)],
)  # fmt: skip
def test_padding_takes_the_value_as_the_dtype_has_it(isa, dtype, value, expected):
    result = isa.run("load_pad", {"src": ([1], dtype)}, {"pad": [[0, 1]], "value": value}, ((2,), dtype))
    assert result.tolist() == [1, expected]


@pytest.mark.parametrize("op", FILLS)
def test_fill(isa, op):
    for shape in SHAPES:
        result = isa.run(op, {}, {"value": 2.5}, (shape, "bfloat16"))
        assert result.shape == shape
        assert np.all(result.astype(np.float32) == 2.5)
    assert isa.run(op, {}, {"value": -3}, ((4,), "int8")).tolist() == [-3] * 4
    assert isa.run(op, {}, {"value": 2**31 - 1}, ((2,), "int32")).tolist() == [2**31 - 1] * 2


@pytest.mark.parametrize("op", TRANSPOSES)
def test_transpose(isa, op):
    x = numbers((3, 5))
    for dtype in DTYPES:
        result = isa.run(op, {"src": (x % 2 if dtype == "bool" else x, dtype)}, {"transpose": True}, ((5, 3), dtype))
        assert result.tolist() == [[(x[i][j] % 2 if dtype == "bool" else x[i][j]) for i in range(3)] for j in range(5)]


def test_gather(isa):
    x, index = numbers((6, 4)), [5, 0, 5, 2]
    result = isa.run("load_gather", {"src": (x, "float16"), "index": (index, "int32")}, dst=((4, 4), "float16"))
    assert result.tolist() == [x[i].tolist() for i in index]
    planes = isa.run(
        "load_gather", {"src": (x.reshape(2, 3, 4), "float16"), "index": (index, "int32")}, dst=((4, 4), "float16")
    )
    assert planes.tolist() == result.tolist()


@pytest.mark.parametrize("bad", [-1, 6])
def test_gather_traps_an_index_outside(isa, bad):
    sources = {"src": (numbers((6, 4)), "float16"), "index": ([1, bad], "int32")}
    with pytest.raises(UserError, match=rf"\[gather\] index {bad} is outside 0 to 5; correct the index"):
        isa.run("load_gather", sources, dst=((2, 4), "float16"))


def test_scatter_names_the_rows_to_write(isa):
    """The value is src; the tag tells the caller to put row i at index[i], the last of several winning."""
    x, index = numbers((3, 4)), [4, 0, 4]
    rows = isa.run("store_scatter", {"src": (x, "int8"), "index": (index, "int32")}, dst=((6, 4), "int8"))
    memory = np.zeros((6, 4), int)
    for row, place in zip(rows, index, strict=True):
        memory[place] = row
    assert memory[4].tolist() == x[2].tolist()
    assert memory[0].tolist() == x[1].tolist()


def test_store_round(isa):
    x = np.array([[1.0, 2049.0, 65520.0, -(2.0**-25)]], np.float32)
    result = isa.run("store_round", {"src": (x, "float32")}, dst=((1, 4), "float16"))
    assert result.view(np.uint16).tolist() == [[0x3C00, 0x6800, 0x7C00, 0x8000]]
    result = isa.run("store_round", {"src": (x, "float32")}, dst=((1, 4), "bfloat16"))
    assert result.view(np.uint16).tolist() == [[0x3F80, 0x4500, 0x4780, 0xB300]]


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "pad"),
    [
        ([3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        ([1, 1], [2, 2], [1, 1], [0, 0, 0, 0]),
        ([2, 3], [2, 1], [1, 2], [1, 0, 2, 3]),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "float32"])
def test_img2col(isa, kernel, stride, dilation, pad, dtype):
    x, zero = numbers((6, 7, 8), 3), 0 if "float" in dtype else 5
    high = (6 + pad[0] + pad[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    wide = (7 + pad[1] + pad[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    rows = []
    for y in range(high):
        for z in range(wide):
            row = []
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    p, q = y * stride[0] + i * dilation[0] - pad[0], z * stride[1] + j * dilation[1] - pad[1]
                    row += x[p, q].tolist() if 0 <= p < 6 and 0 <= q < 7 else [zero] * 8
            rows.append(row)
    attrs = {"kernel": kernel, "stride": stride, "dilation": dilation, "pad": pad, "zero_point": zero}
    result = isa.run("img2col", {"src": (x, dtype)}, attrs, (np.shape(rows), dtype))
    assert result.tolist() == rows


# matrix


def exact_product(lhs, rhs) -> list[list[int]]:
    """The product of whole numbers in Python."""
    lhs, rhs = np.asarray(lhs).tolist(), np.asarray(rhs).tolist()
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*rhs, strict=True)] for row in lhs]


FLOATS = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_products(isa, dtype):
    a, b = numbers((5, 37), 1) - 4, numbers((37, 6), 2) - 4
    c = numbers((5, 6), 3) * 100 + 1
    expected = np.array(exact_product(a, b))
    factors = {"lhs": (a, dtype), "rhs": (b, dtype)}
    assert isa.run("matmul", factors, dst=((5, 6), "float32")).tolist() == expected.tolist()
    acc = isa.run("matmul_acc", {**factors, "acc": (c, "float32")}, dst=((5, 6), "float32"))
    assert acc.tolist() == (expected + c).tolist()
    bias = isa.run("matmul_bias", {**factors, "bias": (c[:1], "float32")}, dst=((5, 6), "float32"))
    assert bias.tolist() == (expected + c[:1]).tolist()


def test_products_of_halves_are_exact_and_accumulate_in_float32(isa):
    """2049 * 2049 needs 22 bits, the sum of 2**12 of 1/4096 in float16 would stop growing."""
    x = np.array([[2050.0, 1.0]], np.float16)
    assert (
        isa.run("matmul", {"lhs": (x, "float16"), "rhs": (x.T, "float16")}, dst=((1, 1), "float32")).item() == 4202501.0
    )
    many = np.full((1, 1024), 1.0, np.float16)
    tiny = np.full((1024, 1), 2.0**-12, np.float16)
    acc = np.array([[2048.0]], np.float32)
    result = isa.run(
        "matmul_acc",
        {"lhs": (many, "float16"), "rhs": (tiny, "float16"), "acc": (acc, "float32")},
        dst=((1, 1), "float32"),
    )
    assert result.item() == 2048.25


def test_products_of_infinities(isa):
    a, b = [[math.inf, 1.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 1.0]]
    result = isa.run("matmul", {"lhs": (a, "float16"), "rhs": (b, "float16")}, dst=((2, 2), "float32"))
    np.testing.assert_array_equal(result, np.array([[math.inf, math.nan], [2.0, 2.0]], np.float32))


@pytest.mark.parametrize(("left", "right"), [("int8", "int8"), ("uint8", "uint8"), ("int8", "uint8"), ("uint8", "int8"),
                                             ("int4", "int4")])  # fmt: skip
def test_integer_products_are_exact(isa, left, right):
    span = {"int8": (-128, 128), "uint8": (0, 256), "int4": (-8, 8)}
    rng = np.random.default_rng(4)
    a, b = rng.integers(*span[left], (3, 960)), rng.integers(*span[right], (960, 4))
    a[0], b[:, 0] = span[left][0], span[right][0]
    a[1], b[:, 1] = span[left][1] - 1, span[right][1] - 1
    c = rng.integers(-(2**30), 2**30, (3, 4))
    expected = np.array(exact_product(a, b))
    factors = {"lhs": (a, left), "rhs": (b, right)}
    assert isa.run("matmul", factors, dst=((3, 4), "int32")).tolist() == expected.tolist()
    acc = isa.run("matmul_acc", {**factors, "acc": (c, "int32")}, dst=((3, 4), "int32"))
    assert acc.tolist() == (expected + c).tolist()
    bias = isa.run("matmul_bias", {**factors, "bias": (c[:1], "int32")}, dst=((3, 4), "int32"))
    assert bias.tolist() == (expected + c[:1]).tolist()


def test_integer_accumulators_wrap(isa):
    factors = {"lhs": ([[127]], "int8"), "rhs": ([[127]], "int8"), "acc": ([[2**31 - 1]], "int32")}
    assert isa.run("matmul_acc", factors, dst=((1, 1), "int32")).item() == 16129 - 2**31 - 1


@pytest.mark.parametrize(("left", "right"), [("int8", "int8"), ("uint8", "int8"), ("uint8", "uint8")])
def test_zero_points_as_onnx_does(isa, left, right):
    rng = np.random.default_rng(5)
    a = rng.integers(np.iinfo(left).min, np.iinfo(left).max + 1, (3, 40)).astype(left)
    b = rng.integers(np.iinfo(right).min, np.iinfo(right).max + 1, (40, 5)).astype(right)
    zero_a, zero_b = (-100 if left == "int8" else 200), (90 if right == "int8" else 3)
    infos = [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in (("a", a), ("b", b))]  # fmt: skip
    zeros = [
        onnx.numpy_helper.from_array(np.array(z, d), n) for z, d, n in ((zero_a, left, "za"), (zero_b, right, "zb"))
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["a", "b", "za", "zb"], ["y"])], "g", infos,
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, (3, 5))], zeros,
    )  # fmt: skip
    expected = ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, {"a": a, "b": b})[0]
    attrs, factors = {"zero_a": zero_a, "zero_b": zero_b}, {"lhs": (a, left), "rhs": (b, right)}
    assert isa.run("matmul_zp", factors, attrs, ((3, 5), "int32")).tolist() == expected.tolist()
    ones = np.ones((3, 5), int)
    acc = isa.run("matmul_acc_zp", {**factors, "acc": (ones, "int32")}, attrs, ((3, 5), "int32"))
    assert acc.tolist() == (expected + 1).tolist()
    bias = isa.run("matmul_bias_zp", {**factors, "bias": (ones[:1] * 7, "int32")}, attrs, ((3, 5), "int32"))
    assert bias.tolist() == (expected + 7).tolist()


def test_zero_points_of_the_longest_product(isa):
    a, b = np.full((1, 1024), 255), np.full((1024, 1), 255)
    factors = {"lhs": (a, "uint8"), "rhs": (b, "uint8")}
    assert isa.run("matmul_zp", factors, {"zero_a": 0, "zero_b": 0}, ((1, 1), "int32")).item() == 255 * 255 * 1024
    assert isa.run("matmul_zp", factors, {"zero_a": 1, "zero_b": 0}, ((1, 1), "int32")).item() == 254 * 255 * 1024


def test_sparse_index_by_hand(isa):
    """One group and one column: kept elements 5 and 6 at places 1 and 3: index 1 | 3 << 2 = 13."""
    factors = {"lhs": ([[1, 10, 100, 1000]], "float16"), "rhs": ([[5], [6]], "float16"), "index": ([[13]], "uint8")}
    assert isa.run("matmul_sparse", factors, {"sparse": True}, ((1, 1), "float32")).item() == 50 + 6000


@pytest.mark.parametrize(("dtype", "result"), [("float16", "float32"), ("bfloat16", "float32"), ("int8", "int32")])
def test_sparse_products(isa, dtype, result):
    rng = np.random.default_rng(6)
    lhs, halved, index, dense = numbers((3, 16), 7), numbers((8, 5), 8), np.zeros((4, 5), int), np.zeros((16, 5), int)
    for group in range(4):
        for column in range(5):
            first, second = sorted(rng.choice(4, 2, replace=False).tolist())
            index[group, column] = first | second << 2
            dense[group * 4 + first, column] = halved[group * 2, column]
            dense[group * 4 + second, column] = halved[group * 2 + 1, column]
    expected = np.array(exact_product(lhs, dense))
    factors = {"lhs": (lhs, dtype), "rhs": (halved, dtype), "index": (index, "uint8")}
    shape, attrs = ((3, 5), result), {"sparse": True}
    assert isa.run("matmul_sparse", factors, attrs, shape).tolist() == expected.tolist()
    acc = {**factors, "acc": (np.ones((3, 5)), result)}
    assert isa.run("matmul_sparse_acc", acc, attrs, shape).tolist() == (expected + 1).tolist()
    bias = {**factors, "bias": (np.full((1, 5), 2), result)}
    assert isa.run("matmul_sparse_bias", bias, attrs, shape).tolist() == (expected + 2).tolist()


def test_bfloat16_products_use_the_rounded_operands(isa):
    x = np.array([[1.0 + 2.0**-7]], np.float32).astype(ml_dtypes.bfloat16)
    assert (
        isa.run("matmul", {"lhs": (x, "bfloat16"), "rhs": (x, "bfloat16")}, dst=((1, 1), "float32")).item()
        == (1 + 2.0**-7) ** 2
    )
