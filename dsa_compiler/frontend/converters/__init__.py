"""Converters of ONNX operators, where TVM's are missing, wrong or emit more than they need."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from onnx import NodeProto, defs
from tvm.relax.frontend.onnx import onnx_frontend

from dsa_compiler.frontend.converters.elementwise import elementwise_converters
from dsa_compiler.frontend.converters.indexing import indexing_converters
from dsa_compiler.frontend.converters.integer import integer_converters, microsoft_converters
from dsa_compiler.frontend.converters.movement import movement_converters
from dsa_compiler.frontend.converters.normalization import normalization_converters
from dsa_compiler.frontend.converters.quantize import quantize_converters
from dsa_compiler.frontend.converters.recurrent import quantized_recurrent_converters, recurrent_converters
from dsa_compiler.frontend.converters.reduction import reduction_converters
from dsa_compiler.frontend.converters.resize import resize_converters
from dsa_compiler.frontend.converters.scan import scan_converters
from dsa_compiler.frontend.converters.windowed import windowed_converters
from dsa_compiler.frontend.node import Converter

MICROSOFT: Final = "com.microsoft"


def _shared_converters() -> dict[str, Converter]:
    """Return converters of com.microsoft that mean what the default domain's do."""
    table = quantize_converters()
    return {name: table[name] for name in ("DequantizeLinear", "QuantizeLinear")}


CONVERTERS: Final[Mapping[tuple[str, str], Converter]] = MappingProxyType(
    {
        ("", name): converter
        for table in (
            elementwise_converters(),
            movement_converters(),
            normalization_converters(),
            indexing_converters(),
            integer_converters(),
            quantize_converters(),
            recurrent_converters(),
            reduction_converters(),
            resize_converters(),
            scan_converters(),
            windowed_converters(),
        )
        for name, converter in table.items()
    }
    | {
        (MICROSOFT, name): converter
        for table in (microsoft_converters(), quantized_recurrent_converters(), _shared_converters())
        for name, converter in table.items()
    }
)

_BY_BODY: Final = frozenset({"Attention"})
"""Operators that TVM converts in part alone; ONNX's own definitions by other operators stand for them."""

_STOCK: Final = frozenset(onnx_frontend._get_convert_map()) - _BY_BODY


def stock_converters() -> Mapping[str, Any]:
    """Return TVM's converters of the default domain, by operator."""
    table: Mapping[str, Any] = onnx_frontend._get_convert_map()
    return table


def operator_name(node: NodeProto) -> str:
    """Return the operator of a node, with its domain unless that is the default one."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def is_known(node: NodeProto) -> bool:
    """Whether the importer has a converter for the operator of a node."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return (domain, node.op_type) in CONVERTERS or (domain == "" and node.op_type in _STOCK)


def has_body(name: str, opset: int) -> bool:
    """Whether ONNX defines an operator of the default domain by others."""
    if not defs.has(name):
        return False
    schema = defs.get_schema(name, opset, "")
    return bool(schema.has_function or schema.has_context_dependent_function)
