"""Read a part from packaged data or from a user's TOML file, and say clearly what is wrong with one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from dsa_compiler.errors import UserError
from dsa_compiler.target.description import (
    DmaEngine,
    Engines,
    Features,
    Host,
    Limits,
    MatrixEngine,
    Memory,
    ScalarEngine,
    Sync,
    Target,
    VectorEngine,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COST_CLASSES = ("simple", "divide", "transcendental", "gather")
KNOWN_DTYPES = (
    "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int32", "int16", "int8", "uint8", "int4", "bool",
)  # fmt: skip


def list_targets() -> tuple[str, ...]:
    """Names of the packaged parts, sorted."""
    folder = resources.files("dsa_compiler.target") / "data"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")))


def load_target(name: str | Path | Target) -> Target:
    """The part called `name`, or described by the TOML file at that path.

    Raises `UserError` if there is no such part or file, or if the description is not valid.
    """
    if isinstance(name, Target):
        return name
    if str(name) in list_targets():
        text = (resources.files("dsa_compiler.target") / "data" / f"{name}.toml").read_text()
        return parse_target(text, str(name))
    path = Path(name)
    if path.suffix != ".toml":
        raise UserError(
            f"no part is called {str(name)!r}",
            where="target",
            action=f"name one of {', '.join(list_targets())} or give a .toml file",
        )
    try:
        return parse_target(path.read_text(), str(path))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}", where="target", action="give a readable file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text", where="target", action="give a TOML file") from error


def parse_target(text: str, where: str = "target") -> Target:
    """A part from TOML text; raises `UserError` naming the key that is missing or wrong."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"not valid TOML: {error}", where=where, action="correct the file") from error
    return target_from_dict(data, where)


def target_from_dict(data: Mapping[str, Any], where: str = "target") -> Target:
    """A part from a parsed description; raises `UserError` naming the key that is missing or wrong."""
    top = _Table(data, "", where)
    memory = {scope: _memory(top.table("memory").table(scope)) for scope in top.table("memory").data}
    for scope in ("ddr", "l1", "l0a", "l0b", "l0c"):
        if scope not in memory:
            raise _wrong(where, f"memory.{scope}", "is missing", "describe it")
    unknown = sorted(set(memory) - {"ddr", "llb", "l1", "l0a", "l0b", "l0c"})
    if unknown:
        raise _wrong(where, f"memory.{unknown[0]}", "is no scope of this machine", "remove it")
    has_llb = "llb" in memory
    features = top.table("features")
    target = Target(
        name=top.text("name"),
        clock_ghz=top.number("clock_ghz"),
        clusters=top.count("clusters"),
        cores_per_cluster=top.count("cores_per_cluster"),
        dtypes=_dtypes(top),
        memory=memory,
        program_size=top.table("program").count("size"),
        engine=_engines(top.table("engine"), has_llb),
        sync=_sync(top.table("sync"), top.count("clusters"), top.count("cores_per_cluster"), has_llb),
        host=Host(
            top.table("host").count("call_latency", 0),
            top.table("host").number("bandwidth"),
            top.table("host").number("ops"),
        ),
        limits=Limits(
            *(top.table("limits").count(k) for k in ("extent", "stride", "matrix_m", "matrix_n", "matrix_k"))
        ),
        features=Features(*(features.flag(k) for k in ("multicast", "transpose_load", "img2col_move", "sparse_2_4"))),
        source=data,
    )
    _check_features(target, where)
    return target


def _wrong(where: str, key: str, problem: str, action: str) -> UserError:
    return UserError(f"{key} {problem}", where=where, action=action)


class _Table:
    """A TOML table with typed reads; every error names the full key."""

    def __init__(self, data: Mapping[str, Any], path: str, where: str) -> None:
        self.data, self.path, self.where = data, path, where

    def _key(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _get(self, key: str) -> Any:
        if key not in self.data:
            raise _wrong(self.where, self._key(key), "is missing", "add it as in the packaged parts")
        return self.data[key]

    def table(self, key: str) -> _Table:
        value = self._get(key)
        if not isinstance(value, Mapping):
            raise _wrong(self.where, self._key(key), f"is {value!r}, not a table", "write it as a table")
        return _Table(value, self._key(key), self.where)

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value:
            raise _wrong(self.where, self._key(key), f"is {value!r}, not a name", "give a text")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key) if default is None else self.data.get(key, default)
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or value < 0 or (default is None and value == 0):
            raise _wrong(self.where, self._key(key), f"is {value!r}, not a positive number", "correct it")
        return float(value)

    def count(self, key: str, least: int = 1, default: int | None = None) -> int:
        value = self._get(key) if default is None else self.data.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise _wrong(
                self.where, self._key(key), f"is {value!r}, not a whole number of at least {least}", "correct it"
            )
        return value

    def flag(self, key: str) -> bool:
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            raise _wrong(self.where, self._key(key), f"is {value!r}, neither true nor false", "correct it")
        return value


def _dtypes(top: _Table) -> tuple[str, ...]:
    value = top._get("dtypes")
    if not isinstance(value, list) or not value:
        raise _wrong(top.where, "dtypes", f"is {value!r}, not a list", "list the part's dtypes")
    for dtype in value:
        if dtype not in KNOWN_DTYPES:
            raise _wrong(top.where, "dtypes", f"names {dtype!r}", f"use some of {', '.join(KNOWN_DTYPES)}")
    return tuple(value)


def _memory(table: _Table) -> Memory:
    alignment = table.count("alignment")
    if alignment & (alignment - 1):
        raise _wrong(table.where, f"{table.path}.alignment", f"is {alignment}, not a power of two", "correct it")
    size, banks = table.count("size"), table.count("banks", default=1)
    if size % banks:
        raise _wrong(table.where, f"{table.path}.banks", f"is {banks}, which does not divide size {size}", "correct it")
    burst = table.count("burst", default=alignment)
    return Memory(size, alignment, table.number("bandwidth", 0.0), table.count("latency", 0, default=0), burst, banks)


def _dma(table: _Table) -> DmaEngine:
    return DmaEngine(table.number("port_bandwidth"), table.count("startup", 0), table.number("transpose_rate", 0.0))


def _unit(table: _Table) -> dict[str, tuple[int, int, int]]:
    units = table.table("unit")
    result = {}
    for dtype, value in units.data.items():
        good = isinstance(value, list) and len(value) == 3 and all(isinstance(x, int) and x > 0 for x in value)
        if not good or dtype not in KNOWN_DTYPES:
            raise _wrong(table.where, f"{units.path}.{dtype}", f"is {value!r}", "give a dtype's [m, n, k]")
        result[dtype] = (value[0], value[1], value[2])
    return result


def _engines(table: _Table, has_llb: bool) -> Engines:
    matrix, vector, scalar = table.table("matrix"), table.table("vector"), table.table("scalar")
    cost = vector.table("cost")
    return Engines(
        load=_dma(table.table("load")),
        store=_dma(table.table("store")),
        move=_dma(table.table("move")),
        matrix=MatrixEngine(matrix.count("startup", 0), _unit(matrix)),
        vector=VectorEngine(
            vector.count("startup", 0),
            vector.count("width"),
            vector.count("row_overhead", 0),
            {c: cost.count(c) for c in COST_CLASSES},
        ),
        scalar=ScalarEngine(scalar.count("issue", 0), scalar.count("scalar_op", 0)),
        prefetch=_dma(table.table("prefetch")) if has_llb else None,
    )


def _sync(table: _Table, clusters: int, cores: int, has_llb: bool) -> Sync:
    """A level's costs are needed only where it joins something: several cores or an LLB; several clusters."""
    names = ("cluster_flags", "cluster_flag_cost", "cluster_barrier", "chip_flags", "chip_flag_cost", "chip_barrier")
    values = {n: table.count(n, 0, default=0) for n in names}
    if (cores > 1 or has_llb) and "cluster_flags" not in table.data:
        raise _wrong(table.where, "sync.cluster_flags", "is missing", "a cluster with an LLB or several cores needs it")
    if clusters > 1 and "chip_flags" not in table.data:
        raise _wrong(table.where, "sync.chip_flags", "is missing", "a part with several clusters needs it")
    return Sync(table.count("flags"), table.count("flag_cost", 0), **values)


def _check_features(target: Target, where: str) -> None:
    if target.features.transpose_load and not target.engine.load.transpose_rate:
        raise _wrong(where, "engine.load.transpose_rate", "is missing", "features.transpose_load needs it")
    for dtype in target.engine.matrix.unit:
        if dtype not in target.dtypes:
            raise _wrong(where, f"engine.matrix.unit.{dtype}", "is no dtype of the part", "add it to dtypes")
