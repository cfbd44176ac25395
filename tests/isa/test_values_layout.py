"""Movement, generation, lookup and sorting against Python lists."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from dsa_compiler.errors import UserError

ORACLES = {
    "transpose", "interleave", "deinterleave", "slide", "gather", "reverse", "iota", "fill", "lookup", "sort_stage",
     "topk_merge",
}  # fmt: skip
NAN, INF = math.nan, math.inf
DTYPES = ("float32", "float16", "bfloat16", "int32", "int8", "uint8", "bool")
SHAPES = ((6,), (3, 6), (2, 3, 6))


def numbers(shape, dtype="int8", seed=0):
    return np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 50, shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose(isa, dtype):
    x = numbers((4, 3), dtype)
    assert isa.run("transpose", {"src": (x, dtype)}, dst=((3, 4), dtype)).tolist() == [
        list(c) for c in zip(*x.tolist(), strict=True)
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows(isa, dtype, shape):
    x, y = numbers(shape, dtype, 1), numbers(shape, dtype, 2)
    rows, others = x.reshape(-1, 6).tolist(), y.reshape(-1, 6).tolist()
    sources = {"src": (x, dtype)}
    assert isa.run("reverse", sources, dst=(shape, dtype)).reshape(-1, 6).tolist() == [r[::-1] for r in rows]
    for phase in (0, 1):
        half = isa.run("deinterleave", sources, {"phase": phase}, ((*shape[:-1], 3), dtype))
        assert half.reshape(-1, 3).tolist() == [r[phase::2] for r in rows]
    both = isa.run("interleave", {**sources, "src2": (y, dtype)}, dst=((*shape[:-1], 12), dtype))
    zipped = [[v for pair in zip(a, b, strict=True) for v in pair] for a, b in zip(rows, others, strict=True)]
    assert both.reshape(-1, 12).tolist() == zipped
    if len(shape) < 3:
        assert isa.run("slide", sources, dst=(shape, dtype)).tolist() == x.tolist()


def test_gather(isa):
    x, index = numbers((5, 4)), [4, 4, 0]
    for dtype in ("float16", "int32"):
        result = isa.run("gather", {"src": (x, dtype), "index": (index, "int32")}, dst=((3, 4), dtype))
        assert result.tolist() == [x[i].tolist() for i in index]
    with pytest.raises(UserError, match="index 5 is outside 0 to 4"):
        isa.run("gather", {"src": (x, "int32"), "index": ([5], "int32")}, dst=((1, 4), "int32"))


def test_lookup(isa):
    table = list(range(100, 356))
    result = isa.run("lookup", {"src": ([[0, 255, 7]], "uint8"), "table": (table, "int32")}, dst=((1, 3), "int32"))
    assert result.tolist() == [[100, 355, 107]]
    signed = isa.run("lookup", {"src": ([-128, 0, 127], "int8"), "table": (table, "float32")}, dst=((3,), "float16"))
    assert signed.tolist() == [100.0, 228.0, 355.0]
    with pytest.raises(UserError, match="index 300 is outside 0 to 255"):
        isa.run("lookup", {"src": ([300], "int32"), "table": (table, "int32")}, dst=((1,), "int32"))


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_generation(isa, shape):
    assert np.all(isa.run("fill", {}, {"value": -1.5}, (shape, "float16")) == -1.5)
    assert np.all(isa.run("fill", {}, {"value": "-inf"}, (shape, "float32")) == -INF)
    assert np.all(isa.run("fill", {}, {"value": 2**24 + 1}, (shape, "int32")) == 2**24 + 1)
    counted = isa.run("iota", {}, {"start": 5, "step": -2}, (shape, "int32"))
    assert counted.reshape(-1, 6).tolist() == [[5, 3, 1, -1, -3, -5]] * (int(np.prod(shape)) // 6)
    real = isa.run("iota", {}, {"start": 0.5, "step": 0.25}, (shape, "float32"))
    assert real.reshape(-1, 6)[0].tolist() == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


# sorting


def test_one_stage_by_hand(isa):
    """distance 2, alternating every 4: the first four ascend, the next four descend."""
    x = [4, 3, 2, 1, 1, 2, 3, 4]
    attrs = {"distance": 2, "direction": 4}
    assert isa.run("sort_stage", {"src": (x, "int32")}, attrs, ((8,), "int32")).tolist() == [2, 1, 4, 3, 3, 4, 1, 2]
    attrs["descending"] = True
    assert isa.run("sort_stage", {"src": (x, "int32")}, attrs, ((8,), "int32")).tolist() == [4, 3, 2, 1, 1, 2, 3, 4]
    always = {"distance": 1, "direction": 0}
    assert isa.run("sort_stage", {"src": (x, "int32")}, always, ((8,), "int32")).tolist() == [3, 4, 1, 2, 1, 2, 3, 4]


def full_sort(isa, x, dtype, **attrs):
    """The bitonic network that the table's text describes."""
    shape = np.shape(x)
    direction = 2
    while direction <= shape[-1]:
        distance = direction // 2
        while distance:
            stage = {"distance": distance, "direction": direction, **attrs}
            x = isa.run("sort_stage", {"src": (x, dtype)}, stage, (shape, dtype))
            distance //= 2
        direction *= 2
    return np.asarray(x)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "int8", "uint8"])
@pytest.mark.parametrize("shape", [(16,), (3, 8), (2, 3, 8)], ids=len)
def test_a_network_sorts(isa, dtype, shape):
    x = numbers(shape, dtype, 5)
    for falling in (False, True):
        result = full_sort(isa, x, dtype, descending=falling)
        assert result.reshape(-1, shape[-1]).tolist() == [
            sorted(r, reverse=falling) for r in x.reshape(-1, shape[-1]).tolist()
        ]


def test_nan_sorts_last(isa):
    x = [3.0, NAN, -INF, INF]
    np.testing.assert_array_equal(full_sort(isa, x, "float32"), [-INF, 3, INF, NAN])
    np.testing.assert_array_equal(full_sort(isa, x, "float32", descending=True), [NAN, INF, 3, -INF])


@pytest.mark.parametrize("falling", [False, True])
def test_payload_makes_a_sort_stable(isa, falling):
    keys = numbers((16,), "bool", 6)
    x = np.stack([keys, np.arange(16)]).astype(np.float32)
    result = full_sort(isa, x, "float32", payload=True, descending=falling)
    order = sorted(range(16), key=lambda i: (-keys[i] if falling else keys[i], i))
    assert result.tolist() == [keys[order].tolist(), order]
    planes = np.stack([x, x[:, ::-1]])
    both = full_sort(isa, planes, "float32", payload=True, descending=falling)
    assert both[0].tolist() == both[1].tolist() == result.tolist()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int8"])
def test_merge(isa, dtype):
    x, y = [9, 7, 7, 1], [8, 7, 2]
    sources = {"src": (x, dtype), "src2": (y, dtype)}
    for keep in (1, 4, 7):
        result = isa.run("topk_merge", sources, {"descending": True}, ((keep,), dtype))
        assert result.tolist() == sorted(x + y, reverse=True)[:keep]
    rising = {"src": (x[::-1], dtype), "src2": (y[::-1], dtype)}
    assert isa.run("topk_merge", rising, {"descending": False}, ((3,), dtype)).tolist() == [1, 2, 7]


def test_merge_of_planes_with_payload(isa):
    x = [[[5, 5, 1], [0, 3, 2]], [[4, 2, 0], [9, 8, 7]]]
    y = [[[5, 1], [1, 0]], [[4, 4], [1, 2]]]
    result = isa.run("topk_merge", {"src": (x, "float32"), "src2": (y, "float32")},
                     {"descending": True, "payload": True}, ((2, 2, 4), "float32"))  # fmt: skip
    assert result.tolist() == [[[5, 5, 5, 1], [0, 1, 3, 0]], [[4, 4, 4, 2], [1, 2, 9, 8]]]


@pytest.mark.parametrize(("role", "x", "y"), [("src", [1, 2], [2, 1]), ("src2", [2, 1], [1, 2])])
def test_merge_traps_unsorted_sources(isa, role, x, y):
    with pytest.raises(UserError, match=rf"\[topk_merge\] {role} is not sorted; sort it in the merge's order"):
        isa.run("topk_merge", {"src": (x, "int32"), "src2": (y, "int32")}, {"descending": True}, ((2,), "int32"))


def test_top_k_as_onnx_has_it(isa):
    """Two sorted halves merged: values and positions of ONNX's TopK, ties by the lower position."""
    x = np.array([3, 1, 3, 2, 3, 0, 9, 2], np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("TopK", ["x", "k"], ["v", "i"])], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (8,))],
        [onnx.helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, (5,)),
         onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, (5,))],
        [onnx.numpy_helper.from_array(np.array([5]), "k")],
    )  # fmt: skip
    values, places = ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, {"x": x})
    whole = np.stack([x, np.arange(8)]).astype(np.float32)
    halves = [full_sort(isa, part, "float32", payload=True, descending=True) for part in (whole[:, :4], whole[:, 4:])]
    result = isa.run("topk_merge", {"src": (halves[0], "float32"), "src2": (halves[1], "float32")},
                     {"descending": True, "payload": True}, ((2, 5), "float32"))  # fmt: skip
    assert result.tolist() == [values.tolist(), places.tolist()]
