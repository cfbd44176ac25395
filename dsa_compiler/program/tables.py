"""A program as structured NumPy tables: entries, operands, flags; everything else is looked up by number.

An entry is one element of a queue. Its order matters only within its queue (cluster, core, engine): the
entries of one queue appear in the table in queue order. Rows of a table are never walked one by one where a
vector operation does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsa_compiler.isa.dtypes import item_bits
from dsa_compiler.target import ENGINES, SCOPES, Target

ENGINE_CODE = {name: code for code, name in enumerate(ENGINES)}
SCOPE_CODE = {name: code for code, name in enumerate(SCOPES)}

ENTRY = np.dtype(
    [
        ("opcode", np.uint16),     # code of the OpDef
        ("cluster", np.int16),
        ("core", np.int16),        # within the cluster; -1 for prefetch
        ("engine", np.uint8),      # place in ENGINES
        ("group", np.int32),       # multicast or barrier group, -1 without
        ("segment", np.int32),     # host steps divide a program into segments
        ("attrs", np.int32),       # index into Program.attrs
        ("operand", np.int64),     # first row in the operand table
        ("operands", np.uint8),
        ("wait", np.int64),        # first row in the flag table
        ("waits", np.uint8),
        ("set", np.int64),         # first row in the flag table
        ("sets", np.uint8),
        ("node", np.int32),        # index into Program.nodes, -1 without
        ("kernel", np.int32),      # index into Program.kernels, -1 without
        ("instance", np.int32),
    ]
)  # fmt: skip

OPERAND = np.dtype(
    [
        ("role", np.uint8),
        ("scope", np.uint8),
        ("dtype", np.uint8),
        ("rank", np.uint8),
        ("address", np.int64),  # bytes from the start of the scope
        ("extents", np.int64, (3,)),  # outermost first; unused places are 1
        ("strides", np.int64, (3,)),  # bytes; innermost is the element size or 0 (int4: 1 stands for 0.5)
    ]
)

TIR_STEP = b"TIR\0"
"""How the `model` of a host step begins that is a TIR module (TVM's JSON) and not an ONNX model."""

FLAG_KINDS = ("core", "cluster", "chip")
FLAG = np.dtype(
    [
        ("kind", np.uint8),  # place in FLAG_KINDS
        ("source", np.uint8),  # engine that sets (core flags only, else 0)
        ("target", np.uint8),  # engine that waits (core flags only, else 0)
        ("number", np.int16),
    ]
)


@dataclass(frozen=True)
class Binding:
    """Where a named tensor of the model lies in ddr: dense, row-major, in the model's dtype."""

    name: str
    address: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Constant:
    """Bytes that are in ddr before the program starts: weights as laid out by the compiler."""

    address: int
    data: np.ndarray  # uint8, one dimension


@dataclass(frozen=True)
class HostStep:
    """An operator that the CPU runs between two segments; it runs before segment `segment` starts.

    `model` is the serialised ONNX model of the step, or, after `TIR_STEP`, a TIR module whose function `kernel`
    takes inputs, then outputs. Inputs and outputs are bound as a program's are; those of a TIR step are whole
    buffers, paddings included.
    """

    segment: int
    op: str
    node: str
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    operations: int
    reason: str
    model: bytes

    @property
    def bytes_in(self) -> int:
        """Bytes that the host reads from ddr."""
        return sum(binding_bytes(b) for b in self.inputs)

    @property
    def bytes_out(self) -> int:
        """Bytes that the host writes to ddr."""
        return sum(binding_bytes(b) for b in self.outputs)


def binding_bytes(binding: Binding) -> int:
    """Bytes that a bound tensor takes in ddr; a row of int4 is two elements a byte."""
    bits = math.prod(binding.shape) * item_bits(binding.dtype)
    return -(-bits // 8)


@dataclass(frozen=True)
class Program:
    """Everything that the simulator needs.

    `attrs` are the distinct attribute dictionaries (plain JSON values) that entries refer to; index 0 is {}.
    """

    target: Target
    entries: np.ndarray
    operands: np.ndarray
    flags: np.ndarray
    attrs: tuple[Mapping[str, Any], ...]
    nodes: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    inputs: tuple[Binding, ...] = ()
    outputs: tuple[Binding, ...] = ()
    constants: tuple[Constant, ...] = ()
    host_steps: tuple[HostStep, ...] = ()
    ddr_bytes: int = 0
    macs: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entries)
