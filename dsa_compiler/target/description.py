"""The machine description: every constant of a part, as frozen dataclasses that mirror its TOML file.

Units are bytes, cycles and bytes a cycle. Nothing else in the package holds a constant of a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CORE_ENGINES = ("load", "store", "move", "matrix", "vector", "scalar")
"""The engines of a core, in the order that breaks ties."""

ENGINES = (*CORE_ENGINES, "prefetch")
SCOPES = ("ddr", "llb", "l1", "l0a", "l0b", "l0c")


@dataclass(frozen=True)
class Memory:
    """One scope: `size` bytes; `bandwidth` 0.0 means no limit; `burst` falls back to `alignment`."""

    size: int
    alignment: int
    bandwidth: float = 0.0
    latency: int = 0
    burst: int = 0
    banks: int = 1

    @property
    def bank_bytes(self) -> int:
        """Bytes of one bank; banks are contiguous."""
        return self.size // self.banks


@dataclass(frozen=True)
class DmaEngine:
    """load, store, prefetch and move: `port_bandwidth` bytes a cycle after `startup` cycles."""

    port_bandwidth: float
    startup: int
    transpose_rate: float = 0.0


@dataclass(frozen=True)
class MatrixEngine:
    """`unit[dtype] = (m, n, k)` multiplied in one cycle."""

    startup: int
    unit: Mapping[str, tuple[int, int, int]]

    def macs_per_cycle(self, dtype: str) -> int:
        """Multiply-accumulates a cycle of one core in `dtype`; 0 if the unit has none."""
        m, n, k = self.unit.get(dtype, (0, 0, 0))
        return m * n * k


@dataclass(frozen=True)
class VectorEngine:
    """`width` bytes of the widest operand a cycle; `cost` cycles for each by cost class."""

    startup: int
    width: int
    row_overhead: int
    cost: Mapping[str, int]


@dataclass(frozen=True)
class ScalarEngine:
    """`issue` cycles for control, `scalar_op` for each operation."""

    issue: int
    scalar_op: int


@dataclass(frozen=True)
class Engines:
    """The engines of a core and of a cluster; `prefetch` is None on a part without an LLB."""

    load: DmaEngine
    store: DmaEngine
    move: DmaEngine
    matrix: MatrixEngine
    vector: VectorEngine
    scalar: ScalarEngine
    prefetch: DmaEngine | None = None


@dataclass(frozen=True)
class Sync:
    """Numbers of flags and costs of synchronisation; 0 flags mean that the level does not exist."""

    flags: int
    flag_cost: int
    cluster_flags: int = 0
    cluster_flag_cost: int = 0
    cluster_barrier: int = 0
    chip_flags: int = 0
    chip_flag_cost: int = 0
    chip_barrier: int = 0


@dataclass(frozen=True)
class Host:
    """The CPU that runs what the part cannot: see the manual, "host"."""

    call_latency: int
    bandwidth: float
    ops: float


@dataclass(frozen=True)
class Limits:
    """Greatest extent of a dimension, stride in bytes, and extents of a matrix product."""

    extent: int
    stride: int
    matrix_m: int
    matrix_n: int
    matrix_k: int


@dataclass(frozen=True)
class Features:
    """What a part can do beyond the common instructions."""

    multicast: bool = False
    transpose_load: bool = False
    img2col_move: bool = False
    sparse_2_4: bool = False


@dataclass(frozen=True)
class Target:
    """A part. `source` is the parsed TOML as given, for listings that carry the whole description."""

    name: str
    clock_ghz: float
    clusters: int
    cores_per_cluster: int
    dtypes: tuple[str, ...]
    memory: Mapping[str, Memory]
    program_size: int
    engine: Engines
    sync: Sync
    host: Host
    limits: Limits
    features: Features
    source: Mapping[str, Any]

    @property
    def cores(self) -> int:
        """Cores of the whole part."""
        return self.clusters * self.cores_per_cluster

    @property
    def has_llb(self) -> bool:
        """Whether clusters have a shared buffer."""
        return "llb" in self.memory

    def row_elements(self, itemsize: int) -> int:
        """Elements of `itemsize` bytes that fill one L1 alignment unit."""
        return max(1, self.memory["l1"].alignment // itemsize)

    def pitch(self, extent: int, itemsize: int) -> int:
        """Extent of an innermost dimension rounded up to whole L1 alignment units, in elements."""
        unit = self.row_elements(itemsize)
        return -(-extent // unit) * unit
