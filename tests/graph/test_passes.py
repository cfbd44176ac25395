"""Each pass on small graphs: what it rewrites, and what it leaves."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from onnx import TensorProto, helper
from tvm.script import relax as R

from dsa_compiler.frontend import import_model, load_model
from dsa_compiler.graph import optimize, run_relax
from dsa_compiler.graph.calls import make_constant, op_name
from dsa_compiler.graph.canonicalize import canonicalize
from dsa_compiler.graph.fold import fold
from dsa_compiler.graph.fold_scale import fold_scale
from dsa_compiler.graph.hoist import hoist
from dsa_compiler.graph.layout import set_layout
from dsa_compiler.graph.precision import set_precision
from dsa_compiler.graph.recognize import recognize
from dsa_compiler.graph.rewriter import bindings_of
from dsa_compiler.graph.subpixel import phases

RNG = np.random.default_rng(0)


def ops(mod):
    return [op_name(b.value) for b in bindings_of(mod["main"]) if op_name(b.value)]


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs, outputs if isinstance(outputs, list) else [outputs], **attrs)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def imported(model):
    return import_model(load_model(model))


def test_canonicalize_before_and_after():
    @R.function
    def before(x: R.Tensor((2, 3, 4), "float32")):
        with R.dataflow():
            a = R.reshape(x, R.shape([6, 4]))
            b = R.reshape(a, R.shape([24]))
            c = R.subtract(b, R.const(2.0, "float32"))
            d = R.maximum(c, R.const(0.0, "float32"))
            e = R.minimum(d, R.const(6.0, "float32"))
            R.output(e)
        return e

    mod = canonicalize(tvm.IRModule({"main": before}))
    assert ops(mod) == ["reshape", "add", "clip"]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("Squeeze", ["x"], "a"), node("Relu", ["a"], "y")], ["reshape", "nn.relu"]),
        ([node("Transpose", ["x"], "a", perm=[0, 2, 1]), node("Transpose", ["a"], "y", perm=[0, 2, 1])], []),
        ([node("Mul", ["x", "one"], "y")], []),
        ([node("Add", ["two", "x"], "a"), node("Add", ["a", "two"], "y")], ["add"]),
        ([node("Div", ["x", "two"], "y")], ["multiply"]),
        ([node("Div", ["x", "zero"], "y")], ["divide"]),
        ([node("Mul", ["x", "x"], "y")], ["square"]),
        ([node("Split", ["x"], ["a", "b"], axis=2), node("Add", ["a", "b"], "y")], ["strided_slice"] * 2 + ["add"]),
    ],
)
def test_canonical_forms(build, nodes, expected):
    constants = {"one": np.float32(1), "two": np.float32(2), "zero": np.float32(0)}
    used = {k: v for k, v in constants.items() if any(k in n.input for n in nodes)}
    mod = canonicalize(imported(build(nodes, {"x": [1, 3, 4]}, ["y"], used, opset=13)))
    assert ops(mod) == expected


@pytest.mark.parametrize(("mode", "value", "absorbed"), [("constant", 0.0, True), ("constant", 1.0, False)])
def test_zero_padding_joins_the_convolution(build, mode, value, absorbed):
    nodes = [node("Pad", ["x", "p", "v"], "a", mode=mode), node("Conv", ["a", "w"], "y")]
    constants = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "v": np.float32(value), "w": weights(4, 2, 3, 3)}
    mod = canonicalize(imported(build(nodes, {"x": [1, 2, 5, 5]}, ["y"], constants)))
    assert ("nn.pad" in ops(mod)) != absorbed


def test_fold_evaluates_constants():
    @R.function
    def before(x: R.Tensor((2, 2), "float32")):
        with R.dataflow():
            a = R.permute_dims(R.const(np.arange(4, dtype="float32").reshape(2, 2)), axes=[1, 0])
            b = R.add(a, R.const(1.0, "float32"))
            c = R.multiply(x, b)
            R.output(c)
        return c

    mod = fold(tvm.IRModule({"main": before}))
    assert ops(mod) == ["multiply"]
    constant = next(bindings_of(mod["main"])).value.args[1].value.numpy()
    np.testing.assert_array_equal(constant, np.arange(4).reshape(2, 2).T + 1)


def batch_norm_model(build, **options):
    constants = {"w": weights(4, 2, 3, 3), "b": weights(4), "g": weights(4), "s": weights(4), "m": weights(4),
                 "v": np.abs(weights(4)) + 0.5}  # fmt: skip
    nodes = [node("Conv", ["x", "w", "b"], "c"), node("BatchNormalization", ["c", "g", "s", "m", "v"], "y")]
    outputs = ["y", "c"] if options.get("both") else ["y"]
    return build(nodes, {"x": [1, 2, 6, 6]}, outputs, constants)


def test_batch_normalisation_folds_into_weights(build, compare):
    model = batch_norm_model(build)
    mod = canonicalize(fold_scale(canonicalize(imported(model))))
    assert ops(mod) == ["nn.conv2d", "add"]
    assert compare(model).counts() == {"conv2d": 1, "movement": 2}


def test_batch_normalisation_stays_where_the_convolution_is_used_twice(build, compare):
    model = batch_norm_model(build, both=True)
    mod = fold_scale(canonicalize(imported(model)))
    assert "multiply" in ops(mod)
    compare(model)


def test_a_scale_along_rows_stays(build):
    nodes = [node("MatMul", ["x", "w"], "c"), node("Mul", ["c", "s"], "y")]
    model = build(nodes, {"x": [3, 4]}, ["y"], {"w": weights(4, 5), "s": weights(3, 1)})
    assert ops(fold_scale(canonicalize(imported(model)))) == ["matmul", "multiply"]


def test_precision_casts_at_the_edges_alone(build, compare):
    nodes = [node("MatMul", ["x", "w"], "c"), node("Relu", ["c"], "d"), node("Add", ["d", "big"], "y")]
    model = build(nodes, {"x": [3, 4]}, ["y"], {"w": weights(4, 5), "big": np.float32(-1e9)})
    mod = set_precision(canonicalize(imported(model)), "float16")
    assert ops(mod) == ["astype", "matmul", "nn.relu", "add", "astype"]
    adds = [b.value for b in bindings_of(mod["main"]) if op_name(b.value) == "add"]
    assert float(adds[0].args[1].value.numpy()) == -65504


def test_integers_keep_their_type(build):
    model = build([node("Gather", ["t", "i"], "y")], {"i": [3]}, ["y"], {"t": weights(5, 4)},
                  types={"i": TensorProto.INT64})  # fmt: skip
    mod = set_precision(imported(model), "float16")
    assert str(mod["main"].params[0].ty.dtype) == "int64"
    assert ops(mod) == ["take", "astype"]


def test_layout_moves_permutations_to_the_edges(build, compare):
    constants = {"w": weights(4, 2, 3, 3), "u": weights(5, 4, 1, 1)}
    nodes = [node("Conv", ["x", "w"], "a"), node("Relu", ["a"], "b"), node("Transpose", ["b"], "c", perm=[0, 2, 3, 1]),
             node("Transpose", ["c"], "d", perm=[0, 3, 1, 2]), node("Conv", ["d", "u"], "y")]  # fmt: skip
    model = build(nodes, {"x": [1, 2, 6, 6]}, ["y"], constants)
    assert ops(set_layout(canonicalize(imported(model)))).count("permute_dims") == 2
    compare(model)


def test_layout_permutes_weights_instead_of_a_flattening(build, compare):
    constants = {"w": weights(4, 2, 3, 3), "f": weights(64, 5)}
    nodes = [node("Conv", ["x", "w"], "a"), node("Flatten", ["a"], "b"), node("MatMul", ["b", "f"], "y")]
    model = build(nodes, {"x": [2, 2, 6, 6]}, ["y"], constants)
    assert compare(model).counts() == {"conv2d": 1, "matmul": 1, "movement": 1}


def test_a_flattening_that_others_use_keeps_its_order(build, compare):
    constants = {"w": weights(4, 2, 3, 3), "f": weights(64, 5)}
    nodes = [node("Conv", ["x", "w"], "a"), node("Flatten", ["a"], "b"), node("MatMul", ["b", "f"], "y"),
             node("Relu", ["b"], "z")]  # fmt: skip
    compare(build(nodes, {"x": [2, 2, 6, 6]}, ["y", "z"], constants))


def test_recognize_layer_normalisation_gelu_and_silu(build, compare):
    nodes = [
        node("ReduceMean", ["x"], "m", axes=[-1]), node("Sub", ["x", "m"], "d"), node("Pow", ["d", "two"], "q"),
        node("ReduceMean", ["q"], "v", axes=[-1]), node("Add", ["v", "eps"], "e"), node("Sqrt", ["e"], "s"),
        node("Div", ["d", "s"], "n"), node("Mul", ["n", "g"], "ng"), node("Add", ["ng", "b"], "l"),
        node("Div", ["l", "root"], "l1"), node("Erf", ["l1"], "l2"), node("Add", ["l2", "one"], "l3"),
        node("Mul", ["l", "l3"], "l4"), node("Mul", ["l4", "half"], "h"),
        node("Sigmoid", ["h"], "hs"), node("Mul", ["h", "hs"], "y"),
    ]  # fmt: skip
    constants = {"two": np.float32(2), "eps": np.float32(1e-5), "g": weights(8), "b": weights(8),
                 "root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}  # fmt: skip
    model = build(nodes, {"x": [2, 3, 8]}, ["y"], constants, opset=13)
    mod = recognize(fold(canonicalize(imported(model))))
    assert ops(mod) == ["nn.layer_norm", "nn.gelu", "nn.silu"]
    assert compare(model).counts() == {"norm": 1}


@pytest.mark.parametrize(
    ("limit", "expected"), [(1.0, ["clip"]), (-1.0, ["nn.relu", "add", "nn.relu", "subtract"])]
)
def test_a_difference_of_relus_is_a_clip(build, compare, limit, expected):
    nodes = [node("Relu", ["x"], "a"), node("Sub", ["x", "c"], "d"), node("Relu", ["d"], "b"),
             node("Sub", ["a", "b"], "y")]  # fmt: skip
    model = build(nodes, {"x": [2, 3, 8]}, ["y"], {"c": np.float32(limit)}, opset=13)
    assert ops(recognize(canonicalize(imported(model)))) == expected
    compare(model)


def test_means_over_different_axes_are_no_normalisation(build, compare):
    nodes = [node("ReduceMean", ["x"], "m", axes=[1]), node("Sub", ["x", "m"], "d"), node("Mul", ["d", "d"], "q"),
             node("ReduceMean", ["q"], "v", axes=[2]), node("Add", ["v", "eps"], "e"), node("Sqrt", ["e"], "s"),
             node("Div", ["d", "s"], "y")]  # fmt: skip
    model = build(nodes, {"x": [2, 3, 8]}, ["y"], {"eps": np.float32(1e-5)}, opset=13)
    assert "divide" in ops(recognize(canonicalize(imported(model))))
    compare(model)


def test_instance_normalisation_over_the_image(build, compare):
    nodes = [node("ReduceMean", ["x"], "m", axes=[2, 3]), node("Sub", ["x", "m"], "d"), node("Mul", ["d", "d"], "q"),
             node("ReduceMean", ["q"], "v", axes=[2, 3]), node("Add", ["v", "eps"], "e"), node("Sqrt", ["e"], "s"),
             node("Div", ["d", "s"], "n"), node("Mul", ["n", "g"], "y")]  # fmt: skip
    model = build(nodes, {"x": [2, 3, 4, 5]}, ["y"], {"eps": np.float32(1e-5), "g": weights(3, 1, 1)}, opset=13)
    assert ops(canonicalize(recognize(canonicalize(imported(model))))) == ["nn.instance_norm"]
    compare(model)


def test_hoist_moves_an_activation_into_the_branches(build, compare):
    constants = {"w": weights(4, 2, 1, 1), "u": weights(3, 2, 1, 1)}
    nodes = [node("Conv", ["x", "w"], "a"), node("Conv", ["x", "u"], "b"), node("Concat", ["a", "b"], "c", axis=1),
             node("Relu", ["c"], "y")]  # fmt: skip
    model = build(nodes, {"x": [1, 2, 6, 6]}, ["y"], constants)
    assert ops(hoist(canonicalize(imported(model)))) == ["nn.conv2d", "nn.conv2d", "nn.relu", "nn.relu", "concat"]
    compare(model)


def test_hoist_leaves_a_concatenation_with_another_use(build):
    constants = {"w": weights(4, 2, 1, 1), "u": weights(3, 2, 1, 1)}
    nodes = [node("Conv", ["x", "w"], "a"), node("Conv", ["x", "u"], "b"), node("Concat", ["a", "b"], "c", axis=1),
             node("Relu", ["c"], "y")]  # fmt: skip
    model = build(nodes, {"x": [1, 2, 6, 6]}, ["y", "c"], constants)
    assert ops(hoist(canonicalize(imported(model)))).count("nn.relu") == 1


@pytest.mark.parametrize("case", [(5, 9, 3, 2, 1, 1), (4, 8, 4, 2, 1, 1), (6, 6, 3, 1, 1, 1), (5, 13, 2, 3, 1, 1),
                                  (5, 11, 3, 2, 2, 1)])  # fmt: skip
def test_phases_compute_a_transposed_convolution(case):
    extent, outputs, kernel, stride, dilation, pad = case
    x, w = RNG.standard_normal(extent), RNG.standard_normal(kernel)
    full = np.zeros(max(outputs + 2 * pad, (extent - 1) * stride + (kernel - 1) * dilation + 1) + stride)
    for i in range(extent):
        for k in range(kernel):
            full[i * stride + k * dilation] += x[i] * w[k]
    expected = full[pad : pad + outputs]
    actual = np.zeros(-(-outputs // stride) * stride)
    for r, phase in enumerate(phases(extent, outputs, kernel, stride, dilation, pad)):
        if not phase.taps:
            continue
        begin, end = max(0, -phase.begin), extent - max(0, -phase.end)
        padded = np.pad(x[begin:end], (max(0, phase.begin), max(0, phase.end)))
        count = len(padded) - (len(phase.taps) - 1) * phase.dilation
        taps = [w[k] for k in phase.taps]
        actual[r::stride] = [sum(t * padded[q + j * phase.dilation] for j, t in enumerate(taps)) for q in range(count)]
    np.testing.assert_allclose(actual[:outputs], expected, atol=1e-12)


def test_level_one_runs_on_the_cpu(build):
    constants = {"w": weights(4, 2, 3, 3), "b": weights(4), "f": weights(64, 5)}
    nodes = [node("Conv", ["x", "w", "b"], "a"), node("Relu", ["a"], "r"), node("Flatten", ["r"], "c"),
             node("MatMul", ["c", "f"], "d"), node("Softmax", ["d"], "y")]  # fmt: skip
    mod = imported(build(nodes, {"x": [1, 2, 6, 6]}, ["y"], constants))
    inputs = {"x": weights(1, 2, 6, 6)}
    before, after = run_relax(mod, inputs)["y"], run_relax(optimize(mod), inputs)["y"]
    np.testing.assert_allclose(before, after, rtol=1e-5)


def test_constants_keep_their_integer_type():
    for dtype in ("int64", "int32", "bool", "float16"):
        assert str(make_constant(np.zeros((), dtype)).ty.dtype) == dtype


@pytest.mark.parametrize(("axis", "expected"), [(-1, ["nn.rms_norm", "add"]), (1, None)])
def test_root_mean_square_normalisation_with_its_scale(build, compare, axis, expected):
    """Over the last axis alone; a shift stays outside, since the operator has none."""
    nodes = [node("Pow", ["x", "two"], "q"), node("ReduceMean", ["q"], "v", axes=[axis]),
             node("Add", ["v", "eps"], "e"),
             node("Sqrt", ["e"], "s"), node("Div", ["x", "s"], "n"), node("Mul", ["n", "g"], "ng"),
             node("Add", ["ng", "b"], "y")]  # fmt: skip
    constants = {"two": np.float32(2), "eps": np.float32(1e-5), "g": weights(8), "b": weights(8)}
    model = build(nodes, {"x": [2, 3, 8]}, ["y"], constants, opset=13)
    found = ops(recognize(canonicalize(imported(model))))
    assert found == expected if expected else "nn.rms_norm" not in found
    compare(model)
