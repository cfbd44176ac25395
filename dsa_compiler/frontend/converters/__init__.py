"""Converters of ONNX operators, where TVM's are missing, wrong or emit more than they need."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dsa_compiler.frontend.converters.elementwise import elementwise_converters
from dsa_compiler.frontend.converters.movement import movement_converters
from dsa_compiler.frontend.converters.normalization import normalization_converters
from dsa_compiler.frontend.converters.quantize import quantize_converters
from dsa_compiler.frontend.converters.recurrent import recurrent_converters
from dsa_compiler.frontend.converters.reduction import reduction_converters
from dsa_compiler.frontend.converters.resize import resize_converters
from dsa_compiler.frontend.converters.windowed import windowed_converters
from dsa_compiler.frontend.node import Converter

CONVERTERS: Final[Mapping[tuple[str, str], Converter]] = MappingProxyType(
    {
        ("", name): converter
        for table in (
            elementwise_converters(),
            movement_converters(),
            normalization_converters(),
            quantize_converters(),
            recurrent_converters(),
            reduction_converters(),
            resize_converters(),
            windowed_converters(),
        )
        for name, converter in table.items()
    }
)
