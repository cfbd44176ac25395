"""The `.npu` file: a zip archive of a manifest (JSON), the program's tables (.npy) and its weights.

    manifest.json    format, version, target, bindings, constants, host steps, and of each other member its
                     size and SHA-256
    entries.npy operands.npy flags.npy      the tables
    attrs.json names.json                   attribute dictionaries; nodes and kernels
    weights.bin                             the constants one after another
    host/N.onnx                             the model of host step N

Nothing in it is code, and nothing is unpickled or written to disk while loading. A file that is damaged,
truncated, newer or hostile is refused with a `UserError`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.dtypes import DTYPES
from dsa_compiler.program.check import check_tables
from dsa_compiler.program.tables import Binding, Constant, HostStep, Program
from dsa_compiler.target import target_from_dict

FORMAT = "dsac-npu"
VERSION = 2
MANIFEST = "manifest.json"
TABLES = ("entries", "operands", "flags")
MEMBERS = frozenset({MANIFEST, "attrs.json", "names.json", "weights.bin", *(f"{t}.npy" for t in TABLES)})
MAX_MANIFEST_BYTES = 1 << 26
MAX_MEMBERS = 1 << 16
MAX_RATIO = 250
"""A member that unpacks to more than this many times its size is refused; ours reach about 30."""

_HOST_MEMBER = re.compile(r"host/(0|[1-9][0-9]{0,5})\.onnx")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ACTION = "compile the model again"


def save(program: Program, path: str | Path) -> None:
    """Write `program` to `path`; the same program gives the same bytes. Raises `UserError` if it cannot."""
    path = Path(path)
    members = _members(program)
    checks = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in members.items()}
    manifest = json.dumps(_manifest(program, checks), sort_keys=True).encode()
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(scratch, "w") as archive:
            for name, data in {MANIFEST: manifest, **members}.items():
                archive.writestr(_zip_info(name), data, compresslevel=1)
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}", where="save", action="choose another path") from error


def load(path: str | Path) -> Program:
    """The program in the file at `path`, checked. Raises `UserError` naming what is wrong with it."""
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _program(_Archive(archive, where), where)
    except OSError as error:
        raise UserError(f"cannot read it: {error.strerror or error}", where=where, action="give a .npu file") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"not a whole .npu file: {error}", where=where, action=_ACTION) from error


def _zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_STORED if name.endswith((".bin", ".onnx")) else zipfile.ZIP_DEFLATED
    return info


def _members(program: Program) -> dict[str, bytes]:
    result = {f"{name}.npy": _npy(getattr(program, name)) for name in TABLES}
    result["attrs.json"] = json.dumps([dict(a) for a in program.attrs]).encode()
    result["names.json"] = json.dumps({"nodes": program.nodes, "kernels": program.kernels}).encode()
    result["weights.bin"] = b"".join(np.ascontiguousarray(c.data).tobytes() for c in program.constants)
    for number, step in enumerate(program.host_steps):
        result[f"host/{number}.onnx"] = step.model
    return result


def _npy(table: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, table, allow_pickle=False)
    return stream.getvalue()


def _manifest(program: Program, checks: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "members": checks,
        "target": program.target.source,
        "inputs": [_binding_row(b) for b in program.inputs],
        "outputs": [_binding_row(b) for b in program.outputs],
        "constants": [[c.address, len(c.data)] for c in program.constants],
        "host_steps": [
            {
                "segment": s.segment, "op": s.op, "node": s.node, "operations": s.operations, "reason": s.reason,
                "inputs": [_binding_row(b) for b in s.inputs], "outputs": [_binding_row(b) for b in s.outputs],
            }
            for s in program.host_steps
        ],
        "ddr_bytes": program.ddr_bytes,
        "macs": program.macs,
        "info": dict(program.info),
    }  # fmt: skip


def _binding_row(binding: Binding) -> list[Any]:
    return [binding.name, binding.address, list(binding.shape), binding.dtype]


class _Archive:
    """The members of an opened file: known names, honest sizes, right checksums."""

    def __init__(self, archive: zipfile.ZipFile, where: str) -> None:
        self._archive, self._where = archive, where
        infos = archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise self._fail(f"it has {len(infos)} members")
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            self._add(info)
        self.manifest = self._read_manifest()
        self._checks = self._member_checks()

    def _fail(self, problem: str) -> UserError:
        return UserError(problem, where=self._where, action=_ACTION)

    def _add(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        if name not in MEMBERS and not _HOST_MEMBER.fullmatch(name):
            raise self._fail(f"member {name!r} does not belong in a .npu file")
        if name in self._infos:
            raise self._fail(f"member {name!r} is there twice")
        if info.flag_bits & 1:
            raise self._fail(f"member {name!r} is encrypted")
        if info.file_size > MAX_RATIO * max(info.compress_size, 1 << 12):
            raise self._fail(f"member {name!r} unpacks from {info.compress_size} to {info.file_size} bytes")
        self._infos[name] = info

    def _bytes(self, name: str, limit: int) -> bytes:
        info = self._infos.get(name)
        if info is None:
            raise self._fail(f"member {name!r} is missing")
        if info.file_size > limit:
            raise self._fail(f"member {name!r} has {info.file_size} bytes, more than {limit}")
        with self._archive.open(info) as stream:
            return stream.read(limit + 1)

    def _read_manifest(self) -> dict[str, Any]:
        manifest = self.parse(MANIFEST, self._bytes(MANIFEST, MAX_MANIFEST_BYTES))
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise self._fail("its manifest is not that of a .npu file")
        version = manifest.get("version")
        if not isinstance(version, int) or version < 1:
            raise self._fail(f"its version is {version!r}")
        if version > VERSION:
            action = "use a newer dsac, or compile the model again with this one"
            raise UserError(
                f"it has format version {version}, and this dsac reads up to {VERSION}",
                where=self._where,
                action=action,
            )
        return manifest

    def _member_checks(self) -> dict[str, tuple[int, str]]:
        members = self.manifest.get("members")
        if not isinstance(members, dict) or set(members) | {MANIFEST} != set(self._infos):
            raise self._fail("its manifest lists other members than it has")
        try:
            checks = {str(n): (int(m["bytes"]), str(m["sha256"])) for n, m in members.items()}
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise self._fail("its manifest lists a member without size and checksum") from error
        for name, (size, _) in checks.items():
            if size != self._infos[name].file_size:
                raise self._fail(f"member {name!r} has {self._infos[name].file_size} bytes, not {size}")
        return checks

    def member(self, name: str) -> bytes:
        """The bytes of a member, checked against the manifest."""
        if name not in self._checks:
            raise self._fail(f"member {name!r} is missing")
        size, digest = self._checks[name]
        data = self._bytes(name, size)
        if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
            raise self._fail(f"member {name!r} does not have the checksum that the manifest gives")
        return data

    def table(self, name: str) -> np.ndarray:
        """A table, read without pickle."""
        try:
            table = np.load(io.BytesIO(self.member(name)), allow_pickle=False)
        except (ValueError, EOFError, SyntaxError, MemoryError, TypeError, KeyError) as error:
            raise self._fail(f"member {name!r} is no table: {error}") from error
        if not isinstance(table, np.ndarray):
            raise self._fail(f"member {name!r} is no table")
        return table

    def parse(self, name: str, data: bytes) -> Any:
        """JSON of a member."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._fail(f"member {name!r} is not valid JSON") from error

    def json(self, name: str) -> Any:
        """JSON of a checked member."""
        return self.parse(name, self.member(name))


def _program(archive: _Archive, where: str) -> Program:
    manifest = archive.manifest
    try:
        names, attrs = archive.json("names.json"), archive.json("attrs.json")
        if not isinstance(attrs, list) or not all(isinstance(a, dict) for a in attrs):
            raise TypeError("attrs.json is no list of dictionaries")
        program = Program(
            target=target_from_dict(manifest["target"], where),
            entries=archive.table("entries.npy"),
            operands=archive.table("operands.npy"),
            flags=archive.table("flags.npy"),
            attrs=tuple(attrs),
            nodes=_names(names["nodes"]),
            kernels=_names(names["kernels"]),
            inputs=_bindings(manifest["inputs"]),
            outputs=_bindings(manifest["outputs"]),
            constants=_constants(manifest["constants"], archive.member("weights.bin")),
            host_steps=tuple(_host_step(archive, n, s) for n, s in enumerate(manifest["host_steps"])),
            ddr_bytes=_whole(manifest["ddr_bytes"]),
            macs=_whole(manifest["macs"]),
            info=dict(manifest["info"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"its manifest is not well formed: {error}", where=where, action=_ACTION) from error
    check_tables(program, where)
    return program


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise TypeError(f"{value!r} is no count")
    return value


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise TypeError("names.json is no list of names")
    return tuple(values)


def _bindings(rows: Any) -> tuple[Binding, ...]:
    return tuple(_binding(*row) for row in rows)


def _binding(name: Any, address: Any, shape: Any, dtype: Any) -> Binding:
    if not isinstance(name, str) or dtype not in DTYPES:
        raise TypeError(f"{[name, address, shape, dtype]!r} is no tensor")
    return Binding(name, _whole(address), tuple(_whole(extent) for extent in shape), dtype)


def _constants(rows: Any, data: bytes) -> tuple[Constant, ...]:
    weights, start, result = np.frombuffer(data, np.uint8), 0, []
    for address, size in rows:
        if start + _whole(size) > len(weights):
            raise ValueError("weights.bin is shorter than the constants")
        result.append(Constant(_whole(address), weights[start : start + size]))
        start += size
    if start != len(weights):
        raise ValueError("weights.bin is longer than the constants")
    return tuple(result)


def _host_step(archive: _Archive, number: int, row: Mapping[str, Any]) -> HostStep:
    texts = [row[key] for key in ("op", "node", "reason")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"host step {number} has no name")
    return HostStep(
        segment=_whole(row["segment"]),
        op=texts[0],
        node=texts[1],
        inputs=_bindings(row["inputs"]),
        outputs=_bindings(row["outputs"]),
        operations=_whole(row["operations"]),
        reason=texts[2],
        model=archive.member(f"host/{number}.onnx"),
    )
