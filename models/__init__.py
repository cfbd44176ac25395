"""Generators of standard networks as ONNX models, with seeded random weights at true size.

    import models
    model = models.build("resnet50", batch=16, fold_batch_norm=False)
    feeds = models.sample_inputs(model, seed=1)

Opset 17, float32, static shapes; opset 19 and QDQ for those named `_int8`. The options of a network are the keyword
arguments of its generator.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from onnx import ModelProto

from models.audio import audio_tagger
from models.bert import bert2, bert_base
from models.conformer import conformer
from models.decoder import gpt2_small, llama_small
from models.densenet import densenet121
from models.detector import yolov4_small
from models.dlrm import dlrm
from models.inspection import inspector
from models.mobilenet import mobilenet_v2
from models.quantized import mobilenet_v2_int8, resnet18_int8, resnet50_int8, tiny_cnn_int8, tiny_transformer_int8
from models.radiance import nerf_small
from models.resnet import resnet18, resnet50
from models.samples import sample_inputs
from models.segmenter import unet_small
from models.tiny import tiny_cnn, tiny_transformer
from models.vit import vit_b16

__all__ = ["build", "names", "options", "sample_inputs"]

_GENERATORS: Mapping[str, Callable[..., ModelProto]] = MappingProxyType(
    {
        generator.__name__: generator
        for generator in (
            resnet18,
            resnet50,
            mobilenet_v2,
            bert_base,
            bert2,
            dlrm,
            vit_b16,
            densenet121,
            conformer,
            tiny_cnn,
            tiny_transformer,
            llama_small,
            gpt2_small,
            yolov4_small,
            unet_small,
            nerf_small,
            audio_tagger,
            inspector,
            resnet18_int8,
            resnet50_int8,
            mobilenet_v2_int8,
            tiny_cnn_int8,
            tiny_transformer_int8,
        )
    }
)


def names() -> tuple[str, ...]:
    """The names that `build` knows."""
    return tuple(_GENERATORS)


def options(name: str) -> tuple[str, ...]:
    """The options of a network, in the order of its generator; ValueError for an unknown name."""
    parameters = inspect.signature(_generator(name)).parameters.values()
    return tuple(each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY)


def build(name: str, batch: int = 1, **chosen: Any) -> ModelProto:
    """Build the network `name` for inputs of `batch` samples.

    Raises ValueError for an unknown name, an unknown option, or a batch below 1.
    """
    generator = _generator(name)
    known = options(name)
    unknown = [option for option in chosen if option not in known]
    if unknown:
        raise ValueError(f"{name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    return generator(batch, **chosen)


def _generator(name: str) -> Callable[..., ModelProto]:
    if name not in _GENERATORS:
        raise ValueError(f"no network is named {name!r}; there are {', '.join(_GENERATORS)}")
    return _GENERATORS[name]
