"""Build a `Program` one entry at a time: for assembled text, tests and hand-written programs.

The compiler fills the tables in bulk instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsa_compiler.isa.definition import ROLE_CODE
from dsa_compiler.isa.dtypes import DTYPE_CODE, item_bits, item_bytes
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.program.tables import (
    ENGINE_CODE,
    ENTRY,
    FLAG,
    FLAG_KINDS,
    OPERAND,
    SCOPE_CODE,
    Binding,
    Constant,
    HostStep,
    Program,
)
from dsa_compiler.target import Target


@dataclass(frozen=True)
class Operand:
    """An operand by names. `strides` in bytes, outermost first; None means dense rows."""

    role: str
    scope: str
    address: int
    dtype: str
    extents: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    def byte_strides(self) -> tuple[int, ...]:
        """The strides, dense where none were given."""
        if self.strides is not None:
            return self.strides
        strides, row_bits = [item_bytes(self.dtype)], item_bits(self.dtype)
        for extent in reversed(self.extents[1:]):
            row_bits *= extent
            strides.insert(0, row_bits // 8)
        return tuple(strides)


@dataclass(frozen=True)
class Flag:
    """`core:FROM>TO:N`, `cluster:N` or `chip:N`."""

    kind: str
    number: int
    source: str = ""
    target: str = ""


class ProgramBuilder:
    """Collects entries in queue order and makes the tables of them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._entries: list[tuple[Any, ...]] = []
        self._operands: list[tuple[Any, ...]] = []
        self._flags: list[tuple[int, int, int, int]] = []
        self._attrs: dict[str, int] = {"{}": 0}
        self._nodes: dict[str, int] = {}
        self._kernels: dict[str, int] = {}
        self.inputs: list[Binding] = []
        self.outputs: list[Binding] = []
        self.constants: list[Constant] = []
        self.host_steps: list[HostStep] = []

    def add(
        self,
        op: str,
        operands: Sequence[Operand] = (),
        *,
        cluster: int = 0,
        core: int = 0,
        engine: str | None = None,
        attrs: Mapping[str, Any] | None = None,
        waits: Sequence[Flag] = (),
        sets: Sequence[Flag] = (),
        group: int = -1,
        segment: int = 0,
        node: str = "",
        kernel: str = "",
        instance: int = 0,
    ) -> int:
        """Append an entry to its queue and return its number. Control entries name their `engine`."""
        definition = OPCODES[op]
        engine = engine or definition.engine
        first = len(self._operands)
        self._operands.extend(self._operand_row(o) for o in operands)
        wait = len(self._flags)
        self._flags.extend(self._flag_row(f) for f in waits)
        set_ = len(self._flags)
        self._flags.extend(self._flag_row(f) for f in sets)
        text = json.dumps(dict(attrs or {}), sort_keys=True)
        self._entries.append(
            (
                definition.code, cluster, -1 if engine == "prefetch" else core, ENGINE_CODE[engine], group, segment,
                self._attrs.setdefault(text, len(self._attrs)), first, len(operands), wait, len(waits), set_, len(sets),
                self._nodes.setdefault(node, len(self._nodes)) if node else -1,
                self._kernels.setdefault(kernel, len(self._kernels)) if kernel else -1, instance,
            )
        )  # fmt: skip
        return len(self._entries) - 1

    @staticmethod
    def _operand_row(operand: Operand) -> tuple[Any, ...]:
        rank = len(operand.extents)
        extents = (*operand.extents, *(1,) * (3 - rank))
        strides = (*operand.byte_strides(), *(0,) * (3 - rank))
        return (
            ROLE_CODE[operand.role], SCOPE_CODE[operand.scope], DTYPE_CODE[operand.dtype], rank,
            operand.address, extents, strides,
        )  # fmt: skip

    @staticmethod
    def _flag_row(flag: Flag) -> tuple[int, int, int, int]:
        source, target = (ENGINE_CODE[flag.source], ENGINE_CODE[flag.target]) if flag.kind == "core" else (0, 0)
        return FLAG_KINDS.index(flag.kind), source, target, flag.number

    def build(self, ddr_bytes: int = 0, macs: int = 0, info: Mapping[str, Any] | None = None) -> Program:
        """The program; `ddr_bytes` is the ddr that it uses."""
        return Program(
            target=self.target,
            entries=np.array(self._entries, ENTRY),
            operands=np.array(self._operands, OPERAND),
            flags=np.array(self._flags, FLAG),
            attrs=tuple(json.loads(text) for text in self._attrs),
            nodes=tuple(self._nodes),
            kernels=tuple(self._kernels),
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            constants=tuple(self.constants),
            host_steps=tuple(self.host_steps),
            ddr_bytes=ddr_bytes,
            macs=macs,
            info=dict(info or {}),
        )
