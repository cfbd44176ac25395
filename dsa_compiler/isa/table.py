"""The instruction table: every opcode, once, composed from the families."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dsa_compiler.isa.definition import OpDef
from dsa_compiler.isa.ops_control import CONTROL
from dsa_compiler.isa.ops_dma import LOAD, PREFETCH, STORE
from dsa_compiler.isa.ops_layout import LAYOUT
from dsa_compiler.isa.ops_matrix import MATRIX
from dsa_compiler.isa.ops_move import MOVE
from dsa_compiler.isa.ops_reduce import REDUCE, SCAN
from dsa_compiler.isa.ops_scalar import SCALAR_CORE
from dsa_compiler.isa.ops_vector import VECTOR
from dsa_compiler.isa.ops_window import WINDOWED

TABLE: tuple[OpDef, ...] = (
    *LOAD, *STORE, *PREFETCH, *MOVE, *MATRIX, *VECTOR, *REDUCE, *SCAN, *WINDOWED, *LAYOUT, *SCALAR_CORE, *CONTROL,
)  # fmt: skip
OPCODES: Mapping[str, OpDef] = MappingProxyType({d.name: d for d in TABLE})
BY_CODE: Mapping[int, OpDef] = MappingProxyType({d.code: d for d in TABLE})
