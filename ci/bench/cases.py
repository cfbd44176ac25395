"""Models and parts that benchmarks compile: networks of one node, and npu-v1 cut to one cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ci.zoo_cases import FILES, load_case

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("resnet18", "resnet50", "mobilenet_v2", "bert2")
PART_ONE = (*FILES, *GENERATED)
"""The networks that the figures are taken over."""


def models_folder() -> Path:
    """The folder of the ONNX files."""
    return Path(os.environ.get("DSAC_MODELS", ROOT.parent / "shared" / "models"))


def part_one(name: str) -> ModelProto:
    """One of `PART_ONE`."""
    return load_case(name, models_folder())


def one_node(
    op: str,
    inputs: Mapping[str, tuple[int, ...]],
    out_shape: tuple[int, ...],
    constants: Mapping[str, np.ndarray] | None = None,
    element: int = TensorProto.FLOAT,
    **attributes: Any,
) -> ModelProto:
    """A model of one node; its operands are `inputs` by shape and then `constants`, its output is `y`."""
    given = constants or {}
    node = helper.make_node(op, [*inputs, *given], ["y"], name=op, **attributes)
    graph = helper.make_graph(
        [node], op,
        [helper.make_tensor_value_info(name, element, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", element, out_shape)],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def random_weights(*shape: int, dtype: type[np.floating[Any]] = np.float16) -> np.ndarray:
    """Seeded weights with the variance of one over the number of inputs of an output."""
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
    scaled: np.ndarray = (values / np.sqrt(fan_in)).astype(dtype)
    return scaled


@contextmanager
def one_cluster() -> Iterator[Path]:
    """A user's TOML file: npu-v1 with a single cluster and a name of its own."""
    text = (resources.files("dsa_compiler.target") / "data" / "npu-v1.toml").read_text()
    text = re.sub(r"(?m)^clusters = \d+", "clusters = 1", text)
    text = re.sub(r'(?m)^name = ".*"', 'name = "npu-v1-one-cluster"', text)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "npu-v1-one-cluster.toml"
        path.write_text(text)
        yield path
