"""The table of all operators, by Relax name without prefix."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dsa_compiler.operators.elementwise import elementwise_operators
from dsa_compiler.operators.movement import movement_operators
from dsa_compiler.operators.normalizations import normalization_operators
from dsa_compiler.operators.operator import Operator
from dsa_compiler.operators.reductions import reduction_operators
from dsa_compiler.operators.windowed import windowed_operators

OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        op.name: op
        for op in (
            *elementwise_operators(),
            *windowed_operators(),
            *reduction_operators(),
            *normalization_operators(),
            *movement_operators(),
        )
    }
)


def is_elementwise(name: str) -> bool:
    """Whether each result element of operator `name` depends on one element of each operand."""
    return name in OPERATORS and OPERATORS[name].category == "elementwise"
