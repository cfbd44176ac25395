"""The generated networks: valid, of the right size, seeded, and with outputs that mean something."""

from __future__ import annotations

import math
import time

import numpy as np
import onnx
import onnxruntime
import pytest

import models
from models.builder import GraphBuilder, Window

SMALL = {
    "bert_base": {"layers": 2, "embedding": True, "vocabulary": 500},
    "conformer": {"layers": 2, "frames": 120},
    "vit_b16": {"layers": 2, "image": 96},
    "dlrm": {"rows": 200},
    "resnet50": {"image": 96},
}


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {each.name: tuple(d.dim_value for d in each.type.tensor_type.shape.dim) for each in values}
    return shapes | {each.name: tuple(each.dims) for each in graph.initializer}


def _macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates, by a count that shares nothing with dsa_compiler.bounds."""
    shapes = _shapes(model)
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, feeds)[0]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("name", "million"),
    [
        ("resnet18", 1814),
        ("resnet50", 4089),
        ("mobilenet_v2", 301),
        ("bert2", 218),
        ("densenet121", 2834),
        ("vit_b16", 17564),
        ("bert_base", 11174),
    ],
)
def test_multiply_accumulates_are_those_of_the_real_network(name: str, million: int) -> None:
    assert _macs(models.build(name)) / 1e6 == pytest.approx(million, abs=0.6)


@pytest.mark.parametrize("name", models.names())
def test_outputs_are_finite_vary_with_the_input_and_stay_in_float16_range(name: str) -> None:
    model = models.build(name, batch=16 if name == "dlrm" else 1, **SMALL.get(name, {}))
    onnx.checker.check_model(model, full_check=True)
    first, second = (_run(model, models.sample_inputs(model, seed)) for seed in (0, 1))
    assert np.isfinite(first).all()
    assert first.std() > 0.05, "saturated or constant output"
    assert np.abs(first).max() < 100
    assert _cosine(first - first.mean(), second - second.mean()) < 0.97


@pytest.mark.parametrize("name", ["tiny_cnn", "mobilenet_v2", "densenet121", "resnet18"])
def test_folded_batch_norm_computes_the_same(name: str) -> None:
    folded = models.build(name, image=64)
    whole = models.build(name, image=64, fold_batch_norm=False)
    norms = sum(node.op_type == "BatchNormalization" for node in whole.graph.node)
    left = sum(node.op_type == "BatchNormalization" for node in folded.graph.node)
    assert norms > left and (left == 0 or name == "densenet121")
    feeds = models.sample_inputs(folded)
    np.testing.assert_allclose(_run(folded, feeds), _run(whole, feeds), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "seconds"), [("resnet50", 2.0), ("bert_base", 4.0)])
def test_large_networks_are_generated_fast(name: str, seconds: float) -> None:
    start = time.process_time()
    models.build(name)
    assert time.process_time() - start < seconds


def test_intermediate_activations_stay_within_float16() -> None:
    model = models.build("resnet50", image=96)
    convolutions = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Add")]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in convolutions)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    peak = max(float(np.abs(value).max()) for value in session.run(None, models.sample_inputs(model)))
    assert 1 < peak < 1000


def test_same_seed_same_model_other_seed_other_weights() -> None:
    first = models.build("tiny_cnn").SerializeToString()
    assert first == models.build("tiny_cnn").SerializeToString()
    assert first != models.build("tiny_cnn", seed=9).SerializeToString()


def test_tracked_shapes_are_those_of_shape_inference() -> None:
    model = models.build("conformer", batch=2, frames=103, layers=1)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bare.graph.output[0].type.tensor_type.ClearField("shape")
    assert _shapes(bare)["output"] == _shapes(model)["output"]


def test_batch_and_sequence_options_set_the_input_shape() -> None:
    model = models.build("bert_base", batch=3, sequence=20, layers=1, mask=False)
    assert [each.name for each in model.graph.input] == ["hidden_states"]
    assert _shapes(model)["hidden_states"] == (3, 20, 768)
    assert _run(model, models.sample_inputs(model)).shape == (3, 20, 768)


def test_masked_positions_do_not_reach_the_others() -> None:
    model = models.build("tiny_transformer")
    feeds = models.sample_inputs(model)
    feeds["attention_mask"] = np.r_[np.ones(16), np.zeros(16)].astype(np.float32)[None]
    before = _run(model, feeds)[:, :16]
    feeds["hidden_states"][:, 16:] += 1.0
    np.testing.assert_allclose(_run(model, feeds)[:, :16], before, atol=1e-5)


def test_embedding_option_takes_token_ids() -> None:
    model = models.build("tiny_transformer", embedding=True)
    feeds = models.sample_inputs(model)
    assert feeds["input_ids"].dtype == np.int64 and feeds["input_ids"].max() < 100
    assert _run(model, feeds).shape == (1, 32, 64)


def test_sampled_inputs_repeat_with_the_seed() -> None:
    model = models.build("dlrm", rows=50)
    first, again, other = (models.sample_inputs(model, seed) for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["dense"] != other["dense"]).any() and first["sparse"].max() < 50


def test_options_are_listed_and_unknown_ones_named() -> None:
    assert "fold_batch_norm" in models.options("resnet50") and "sequence" in models.options("bert_base")
    with pytest.raises(ValueError, match="tiny_cnn has no option 'depth'; it has image, classes"):
        models.build("tiny_cnn", depth=3)


def test_unknown_name_and_bad_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="no network is named 'lenet'; there are resnet18"):
        models.build("lenet")
    with pytest.raises(ValueError, match="batch must be at least 1, not 0"):
        models.build("tiny_cnn", batch=0)


def test_builder_counts_window_positions_as_onnx_does() -> None:
    build = GraphBuilder("windows")
    x = build.input("x", (1, 3, 17, 23))
    model = build.output("y", build.max_pool(build.convolution(x, 4, Window(5, 2, 1)), Window(3, 2, 1)))
    onnx.checker.check_model(model, full_check=True)
    assert _run(model, models.sample_inputs(model)).shape == _shapes(model)["y"]
