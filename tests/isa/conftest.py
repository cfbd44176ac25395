"""A part that has everything, and a way to run one instruction of the table on arrays.

Each run first builds the instruction as a program, which must pass the validator and be given a cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dsa_compiler.isa.convert import convert
from dsa_compiler.isa.cost import entry_costs
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.isa.validate import validate_program
from dsa_compiler.program.builder import Operand, ProgramBuilder
from dsa_compiler.target import Target, load_target, target_from_dict

NUMPY = {
    "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
    "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8, "int4": np.int8, "bool": np.bool_,
}  # fmt: skip


def full_part() -> Target:
    """npu-v2 with every dtype and feature."""
    data = dict(load_target("npu-v2").source)
    data["dtypes"] = list(NUMPY)
    data["features"] = dict.fromkeys(("multicast", "transpose_load", "img2col_move", "sparse_2_4"), True)
    engine = {name: dict(values) for name, values in data["engine"].items()}
    engine["load"]["transpose_rate"] = 16.0
    engine["matrix"]["unit"] = {**engine["matrix"]["unit"], "float8_e5m2": [16, 16, 32]}
    return target_from_dict({**data, "engine": engine})


def pitches(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Byte strides with rows padded to 64 bytes."""
    item = np.dtype(NUMPY[dtype]).itemsize
    strides = [item]
    for axis in range(len(shape) - 1, 0, -1):
        strides.insert(0, -(-shape[axis] * strides[0] // 64) * 64)
    return tuple(strides)


class Instructions:
    """Runs instructions of the table."""

    def __init__(self) -> None:
        self.target = full_part()

    def program(self, op: str, shapes: Mapping[str, tuple[tuple[int, ...], str]], attrs: Mapping[str, Any]) -> Any:
        """A program of that one instruction, each operand in the first scope that its role allows."""
        definition, place, operands = OPCODES[op], {}, []
        builder = ProgramBuilder(self.target)
        for spec in definition.operands:
            shape, dtype = shapes[spec.role]
            scope = spec.scopes[0]
            if definition.engine == "prefetch" and spec.role == "dst":
                scope = "llb"
            strides = pitches(shape, dtype)
            operands.append(Operand(spec.role, scope, place.get(scope, 0), dtype, shape, strides))
            place[scope] = place.get(scope, 0) + -(-shape[0] * max(strides[0], 64) // 64) * 64
        group = 0 if "multicast" in definition.tags else -1
        engine = "scalar" if definition.engine == "control" else None
        builder.add(op, operands, attrs=attrs, group=group, engine=engine)
        return builder.build()

    def run(self, op: str, arrays: Mapping[str, tuple[Any, str]], attrs: Mapping[str, Any] | None = None,
            dst: tuple[tuple[int, ...], str] = ((1,), "float32"), legal: bool = True) -> np.ndarray:  # fmt: skip
        """What the instruction writes: `arrays` gives values and dtype by role, `dst` the result's shape and dtype."""
        definition, attrs = OPCODES[op], dict(attrs or {})
        values = {role: np.asarray(v).astype(NUMPY[dtype]) for role, (v, dtype) in arrays.items()}
        if legal:
            shapes = {"dst": dst, **{role: (values[role].shape, arrays[role][1]) for role in values}}
            program = self.program(op, shapes, attrs)
            validate_program(program)
            assert entry_costs(program)["work"][0] > 0
        if "shaped" in definition.tags:
            values["dst"] = np.empty(dst[0])
        before = {role: value.copy() for role, value in values.items()}
        with np.errstate(all="ignore"):
            result = convert(definition.semantics(values, attrs), dst[1], "saturate" in definition.tags)
        assert all(np.array_equal(before[r].view(np.uint8), values[r].view(np.uint8)) for r in arrays), (
            "a source changed"
        )
        assert result.dtype == NUMPY[dst[1]]
        if "scatter" in definition.tags:
            return result
        wide = np.broadcast_to(result, dst[0]) if result.size == 1 or "shaped" in definition.tags else result
        return wide.reshape(dst[0])


@pytest.fixture(scope="session")
def isa() -> Instructions:
    return Instructions()
