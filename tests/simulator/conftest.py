"""A small part with round numbers and a builder of programs whose costs are given entry by entry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from dsa_compiler.isa.cost import COST
from dsa_compiler.program.builder import Flag, Operand, ProgramBuilder
from dsa_compiler.program.tables import Program
from dsa_compiler.simulator.timing import Stretch, Timing, time_program
from dsa_compiler.target import Target, parse_target

PART = """
name = "small"
clock_ghz = 1.0
clusters = 2
cores_per_cluster = 2
dtypes = ["float32", "float16", "int32", "int16", "int8", "uint8", "bool"]
[memory.ddr]
size = 1048576
bandwidth = 100.0
latency = 200
burst = 64
alignment = 64
[memory.llb]
size = 65536
bandwidth = 60.0
latency = 40
burst = 32
alignment = 32
[memory.l1]
size = 32768
banks = 4
alignment = 32
[memory.l0a]
size = 8192
alignment = 32
[memory.l0b]
size = 8192
alignment = 32
[memory.l0c]
size = 16384
alignment = 64
[program]
size = 1048576
[engine.load]
port_bandwidth = 64.0
startup = 16
transpose_rate = 16.0
[engine.store]
port_bandwidth = 64.0
startup = 16
[engine.prefetch]
port_bandwidth = 128.0
startup = 16
[engine.move]
port_bandwidth = 256.0
startup = 8
[engine.matrix]
startup = 16
unit = { float16 = [4, 4, 4], float32 = [4, 4, 4], int8 = [4, 4, 8], uint8 = [4, 4, 8] }
[engine.vector]
startup = 8
width = 64
row_overhead = 1
cost = { simple = 1, divide = 4, transcendental = 4, gather = 8 }
[engine.scalar]
issue = 1
scalar_op = 4
[sync]
flags = 8
flag_cost = 1
cluster_flags = 8
cluster_flag_cost = 20
cluster_barrier = 50
chip_flags = 8
chip_flag_cost = 100
chip_barrier = 400
[host]
call_latency = 1000
bandwidth = 16.0
ops = 4.0
[limits]
extent = 65535
stride = 16777215
matrix_m = 64
matrix_n = 64
matrix_k = 256
[features]
multicast = true
transpose_load = true
img2col_move = true
sparse_2_4 = false
"""


def flag(text: str) -> Flag:
    """`core:load>move:3`, `cluster:1` or `chip:0`."""
    parts = text.split(":")
    if parts[0] == "core":
        source, target = parts[1].split(">")
        return Flag("core", int(parts[2]), source, target)
    return Flag(parts[0], int(parts[1]))


class Script:
    """A program built from lines such as ``add("0.1 load", "load", work=640, rate=64, memory="ddr")``."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.builder = ProgramBuilder(target)
        self._costs: list[tuple[Any, ...]] = []

    def add(
        self,
        place: str,
        op: str,
        *,
        startup: float = 0,
        work: float = 0,
        rate: float = 1,
        memory: str = "",
        latency: float = 0,
        banks: Iterable[int] = (),
        waits: str = "",
        sets: str = "",
        **keywords: Any,
    ) -> int:
        """Append an entry to the queue `CLUSTER.CORE ENGINE` or `CLUSTER prefetch`; returns its number."""
        where, engine = place.split()
        cluster, _, core = where.partition(".")
        mask = sum(1 << b for b in banks)
        used = memory.split()
        self._costs.append((startup, work, rate, bool(used), "ddr" in used, "llb" in used, latency, mask))
        return self.builder.add(
            op, keywords.pop("operands", ()), cluster=int(cluster), core=int(core or 0), engine=engine,
            waits=[flag(f) for f in waits.split()], sets=[flag(f) for f in sets.split()], **keywords,
        )  # fmt: skip

    def costs(self) -> np.ndarray:
        """The costs as isa.cost gives them."""
        rows = np.zeros(len(self._costs), COST)
        names = ("startup", "work", "rate", "flow", "ddr", "llb", "latency", "banks")
        for place, row in enumerate(self._costs):
            for name, value in zip(names, row, strict=True):
                rows[name][place] = value
        return rows

    def program(self) -> Program:
        """The tables."""
        return self.builder.build()

    def time(self, stretch: Stretch | None = None) -> Timing:
        """Run the time with the costs given."""
        return time_program(self.program(), costs=self.costs(), stretch=stretch)


@pytest.fixture
def part() -> Target:
    return parse_target(PART)


@pytest.fixture
def script(part: Target) -> Script:
    return Script(part)


@pytest.fixture
def operand() -> type[Operand]:
    return Operand
