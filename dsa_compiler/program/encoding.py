"""The binary command streams: one for each core, and one for each cluster's prefetch queue.

An entry is, little-endian:

    opcode u16, bytes u16, engine u8, waits | sets << 4 u8, operands u8, options u8 (1: group, 2: segment)
    group i32, segment i32            where the options say so
    operands                          slot | rank << 4 | broadcast << 6 | near << 7 u8, scope | dtype << 4 u8,
                                      address u48, extents u16 each, outer strides u32 each;
                                      near: address u32, extents u16 each, outer strides u16 each
    waits, sets                       kind << 14 | source << 11 | target << 8 | number u16
    attributes                        presence u16, then each present one, by its kind in the table

The slot is the operand's place in the opcode's declaration, so opcode, operands and attributes are read
back through the instruction table. Names (node, kernel, instance) are not in a stream.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.definition import ROLES, AttrSpec, OpDef
from dsa_compiler.isa.dtypes import DTYPES, item_bytes
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.program.check import check_tables
from dsa_compiler.program.tables import ENTRY, FLAG, OPERAND, Program
from dsa_compiler.target import Target

Stream = tuple[int, int]
"""(cluster, core); the core of a prefetch queue is -1."""

HEADER = np.dtype(
    [("opcode", "<u2"), ("bytes", "<u2"), ("engine", "u1"), ("flags", "u1"), ("operands", "u1"), ("options", "u1")]
)
MAX_EXTENT, MAX_STRIDE, MAX_FLAG = 0xFFFF, 0xFFFFFFFF, 0xFF
_WHERE = "encoding"
_SHORT_HEADER = "the stream ends within an entry"


def _operand_dtype(rank: int, near: bool) -> np.dtype:
    high = [] if near else [("high", "<u2")]
    stride = "<u2" if near else "<u4"
    return np.dtype(
        [("slot", "u1"), ("type", "u1"), ("low", "<u4"), *high, ("extents", "<u2", (rank,)),
         ("strides", stride, (rank - 1,))]
    )  # fmt: skip


OPERANDS = {(rank, near): _operand_dtype(rank, near) for near in (False, True) for rank in (1, 2, 3)}
"""Records by rank and form; an operand is near if its address and its outer strides fit that form."""

_OPERAND_BYTES = np.array([[0, *(OPERANDS[rank, near].itemsize for rank in (1, 2, 3))] for near in (False, True)])
_NEAR_ADDRESS, _NEAR_STRIDE = 0xFFFFFFFF, 0xFFFF
_NEAR_BIT = np.uint8(128)
_ITEM_BYTES = np.array([item_bytes(name) for name in DTYPES])


def encode(program: Program) -> dict[Stream, bytes]:
    """The command stream of each core and prefetch queue that has entries.

    Raises `UserError` for an extent, stride, flag number or attribute that the encoding cannot hold.
    """
    order, starts = _stream_order(program)
    blobs, blob_of = _attr_blobs(program)
    sizes = _entry_bytes(program, blobs, blob_of)[order]
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    image = np.zeros(int(offsets[-1]), np.uint8)
    _Encoder(program, order, offsets[:-1], sizes, image).write(blobs, blob_of)
    ends = {stream: int(offsets[stop]) for stream, (_, stop) in starts.items()}
    begins = {stream: int(offsets[start]) for stream, (start, _) in starts.items()}
    return {stream: image[begins[stream] : ends[stream]].tobytes() for stream in starts}


def program_bytes(program: Program) -> dict[Stream, int]:
    """Encoded bytes of each command stream, without encoding it."""
    order, starts = _stream_order(program)
    blobs, blob_of = _attr_blobs(program)
    sizes = _entry_bytes(program, blobs, blob_of)[order]
    return {stream: int(sizes[start:stop].sum()) for stream, (start, stop) in starts.items()}


def check_program_size(program: Program) -> None:
    """Raise `UserError` if a command stream is larger than the part's program memory."""
    limit = program.target.program_size
    for (cluster, core), size in program_bytes(program).items():
        if size > limit:
            name = f"core {core}" if core >= 0 else "the prefetch queue"
            raise UserError(
                f"{name} of cluster {cluster} needs {size} bytes of program, and {program.target.name} has {limit}",
                where=_WHERE,
                action="compile a smaller batch or choose larger tiles",
            )


def decode(target: Target, streams: Mapping[Stream, bytes]) -> Program:
    """The program in `streams`: entries, operands, flags and attributes, stream after stream.

    Raises `UserError` for a stream that is cut or holds what no encoder wrote.
    """
    parts = [_Decoder(cluster, core, data) for (cluster, core), data in sorted(streams.items())]
    attrs: dict[str, int] = {"{}": 0}
    tables = [part.tables(attrs) for part in parts]
    operand_base = flag_base = 0
    for entries, operands, flags in tables:
        entries["operand"] += operand_base
        entries["wait"] += flag_base
        entries["set"] += flag_base
        operand_base, flag_base = operand_base + len(operands), flag_base + len(flags)
    program = Program(
        target,
        np.concatenate([np.zeros(0, ENTRY), *(table[0] for table in tables)]),
        np.concatenate([np.zeros(0, OPERAND), *(table[1] for table in tables)]),
        np.concatenate([np.zeros(0, FLAG), *(table[2] for table in tables)]),
        attrs=tuple(json.loads(text) for text in attrs),
    )
    check_tables(program, _WHERE)
    return program


def _stream_order(program: Program) -> tuple[np.ndarray, dict[Stream, tuple[int, int]]]:
    """Entries sorted by stream, order kept within it; and the span of each stream."""
    entries = program.entries
    width = program.target.cores_per_cluster + 1
    keys = entries["cluster"].astype(np.int64) * width + entries["core"] + 1
    order = np.argsort(keys, kind="stable")
    found, counts = np.unique(keys, return_counts=True)
    stops = np.cumsum(counts)
    return order, {
        (int(key) // width, int(key) % width - 1): (int(stop - count), int(stop))
        for key, count, stop in zip(found, counts, stops, strict=True)
    }


def _attr_blobs(program: Program) -> tuple[list[bytes], np.ndarray]:
    """The distinct encoded attributes, and which of them each entry has."""
    opcodes = program.entries["opcode"].astype(np.int64)
    pairs, blob_of = np.unique(opcodes << 32 | program.entries["attrs"], return_inverse=True)
    blobs = [encode_attrs(BY_CODE[int(p) >> 32], program.attrs[int(p) & 0xFFFFFFFF]) for p in pairs]
    return blobs, blob_of


def _entry_bytes(program: Program, blobs: list[bytes], blob_of: np.ndarray) -> np.ndarray:
    entries = program.entries
    sizes = HEADER.itemsize + 4 * (entries["group"] >= 0) + 4 * (entries["segment"] > 0)
    sizes = sizes + 2 * (entries["waits"].astype(np.int64) + entries["sets"])
    operands = program.operands
    running = np.concatenate(([0], np.cumsum(_OPERAND_BYTES[_near(operands).astype(np.int64), operands["rank"]])))
    sizes += running[entries["operand"] + entries["operands"]] - running[entries["operand"]]
    lengths = np.array([len(b) for b in blobs], np.int64)
    total: np.ndarray = sizes + lengths[blob_of]
    return total


def _near(operands: np.ndarray) -> np.ndarray:
    """Which operands have the shorter form."""
    outer = np.arange(3)[None, :] < operands["rank"].astype(np.int64)[:, None] - 1
    strides = np.where(outer, operands["strides"], 0).max(axis=1, initial=0)
    return np.asarray((operands["address"] <= _NEAR_ADDRESS) & (strides <= _NEAR_STRIDE))


def _scatter(image: np.ndarray, offsets: np.ndarray, records: np.ndarray) -> None:
    """Write each record at its offset."""
    size = records.dtype.itemsize
    raw = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), size)
    for byte in range(size):
        image[offsets + byte] = raw[:, byte]


def _spans(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows `first[i] .. first[i] + count[i]` for all i, one after another, and the i of each."""
    count = count.astype(np.int64)
    owner = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return first[owner] + place, owner


def _slot_table() -> np.ndarray:
    """slot[opcode, role]: the operand's place in the opcode's declaration, 255 where it has none."""
    table = np.full((max(BY_CODE) + 1, len(ROLES)), 255, np.uint8)
    for code, definition in BY_CODE.items():
        for slot, operand in enumerate(definition.operands):
            table[code, ROLES.index(operand.role)] = slot
    return table


class _Encoder:
    """Writes the parts of all entries, each kind at once; `at` is the next free byte of each entry."""

    def __init__(
        self, program: Program, order: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, image: np.ndarray
    ) -> None:
        self.program, self.entries, self.image = program, program.entries[order], image
        self.order, self.at, self.sizes = order, offsets.copy(), sizes

    def write(self, blobs: list[bytes], blob_of: np.ndarray) -> None:
        """All parts, in the order of the format."""
        self._headers()
        self._optional("group", self.entries["group"] >= 0)
        self._optional("segment", self.entries["segment"] > 0)
        self._operands()
        for first, count in (("wait", "waits"), ("set", "sets")):
            self._flags(self.entries[first], self.entries[count])
        chosen = blob_of[self.order]
        by_blob = np.argsort(chosen, kind="stable")
        ends = np.cumsum(np.bincount(chosen, minlength=len(blobs)))
        for number, blob in enumerate(blobs):
            places = self.at[by_blob[ends[number - 1] if number else 0 : ends[number]]]
            for byte, value in enumerate(blob):
                self.image[places + byte] = value

    def _headers(self) -> None:
        if len(self.sizes) and self.sizes.max() > 0xFFFF:
            raise _too_large("entry", int(self.order[np.argmax(self.sizes)]), "size", int(self.sizes.max()), 0xFFFF)
        headers = np.zeros(len(self.entries), HEADER)
        for name in ("opcode", "engine", "operands"):
            headers[name] = self.entries[name]
        headers["bytes"] = self.sizes
        headers["flags"] = self.entries["waits"] | self.entries["sets"] << 4
        headers["options"] = (self.entries["group"] >= 0) | (self.entries["segment"] > 0) * np.uint8(2)
        _scatter(self.image, self.at, headers)
        self.at += HEADER.itemsize

    def _optional(self, field: str, present: np.ndarray) -> None:
        _scatter(self.image, self.at[present], self.entries[field][present].astype("<i4"))
        self.at[present] += 4

    def _operands(self) -> None:
        rows, owner = _spans(self.entries["operand"], self.entries["operands"])
        table = self.program.operands[rows]
        slots = _slot_table()[self.entries["opcode"][owner], table["role"]]
        self._check_operands(table, slots, owner)
        near = _near(table)
        sizes = _OPERAND_BYTES[near.astype(np.int64), table["rank"]]
        running = np.cumsum(sizes) - sizes
        first = np.zeros(len(self.entries), np.int64)
        total = np.bincount(owner, sizes, len(self.entries)).astype(np.int64)
        first[:] = np.cumsum(total) - total
        places = self.at[owner] + running - first[owner]
        for (rank, short), dtype in OPERANDS.items():
            chosen = (table["rank"] == rank) & (near == short)
            marked = slots[chosen] | (_NEAR_BIT if short else np.uint8(0))
            _scatter(self.image, places[chosen], _operand_records(table[chosen], marked, rank, dtype))
        self.at += total

    def _check_operands(self, table: np.ndarray, slots: np.ndarray, owner: np.ndarray) -> None:
        if (bad := np.flatnonzero(slots == 255)).size:
            entry = owner[bad[0]]
            name = BY_CODE[int(self.entries["opcode"][entry])].name
            role = ROLES[table["role"][bad[0]]]
            raise UserError(
                f"entry {self.order[entry]}: {name} has no operand {role}", where=_WHERE, action="correct the entry"
            )
        for field, limit in (("extents", MAX_EXTENT), ("strides", MAX_STRIDE)):
            greatest = table[field].max(axis=1) if len(table) else np.zeros(0, np.int64)
            if (bad := np.flatnonzero(greatest > limit)).size:
                raise _too_large("entry", int(self.order[owner[bad[0]]]), field[:-1], int(greatest[bad[0]]), limit)

    def _flags(self, first: np.ndarray, count: np.ndarray) -> None:
        rows, owner = _spans(first, count)
        flags = self.program.flags[rows]
        if (bad := np.flatnonzero(flags["number"] > MAX_FLAG)).size:
            number = int(flags["number"][bad[0]])
            raise _too_large("entry", int(self.order[owner[bad[0]]]), "flag number", number, MAX_FLAG)
        words = (
            flags["kind"].astype(np.uint16) << 14
            | flags["source"].astype(np.uint16) << 11
            | flags["target"].astype(np.uint16) << 8
            | flags["number"].astype(np.uint16)
        )
        place = np.arange(len(rows)) - (np.cumsum(count, dtype=np.int64) - count)[owner]
        _scatter(self.image, self.at[owner] + 2 * place, words.astype("<u2"))
        self.at += 2 * count.astype(np.int64)


def _too_large(what: str, number: int, field: str, value: int, limit: int) -> UserError:
    return UserError(
        f"{what} {number}: {field} {value} is more than the encoding's {limit}",
        where=_WHERE,
        action="split the instruction",
    )


def _operand_records(table: np.ndarray, slots: np.ndarray, rank: int, dtype: np.dtype) -> np.ndarray:
    records = np.zeros(len(table), dtype)
    broadcast = table["strides"][:, rank - 1] == 0
    records["slot"] = slots | np.uint8(rank << 4) | broadcast * np.uint8(64)
    records["type"] = table["scope"] | table["dtype"] << 4
    records["low"] = table["address"] & 0xFFFFFFFF
    if "high" in (dtype.names or ()):
        records["high"] = table["address"] >> 32
    records["extents"] = table["extents"][:, :rank]
    records["strides"] = table["strides"][:, : rank - 1]
    return records


class _Decoder:
    """Reads one stream."""

    def __init__(self, cluster: int, core: int, data: bytes) -> None:
        self.cluster, self.core, self.data = cluster, core, data
        self.image = np.frombuffer(data, np.uint8)

    def _fail(self, problem: str) -> UserError:
        return UserError(
            f"stream of cluster {self.cluster}, core {self.core}: {problem}",
            where=_WHERE,
            action="encode the program again",
        )

    def _offsets(self) -> np.ndarray:
        """Where each entry starts."""
        offsets, at, end = [], 0, len(self.data)
        read = struct.Struct("<H").unpack_from
        while at < end:
            if at + HEADER.itemsize > end:
                raise self._fail(_SHORT_HEADER)
            offsets.append(at)
            size = read(self.data, at + 2)[0]
            if size < HEADER.itemsize or at + size > end:
                raise self._fail(_SHORT_HEADER)
            at += size
        return np.array(offsets, np.int64)

    def _gather(self, offsets: np.ndarray, dtype: np.dtype) -> np.ndarray:
        raw = self.image[np.minimum(offsets[:, None] + np.arange(dtype.itemsize), len(self.image) - 1)]
        return np.ascontiguousarray(raw).view(dtype).reshape(len(offsets))

    def tables(self, attrs: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Entries, operands and flags of the stream; `attrs` collects the attribute dictionaries."""
        offsets = self._offsets()
        headers = self._gather(offsets, HEADER)
        entries = np.zeros(len(offsets), ENTRY)
        for name in ("opcode", "engine", "operands"):
            entries[name] = headers[name]
        entries["cluster"], entries["core"] = self.cluster, self.core
        entries["waits"], entries["sets"] = headers["flags"] & 15, headers["flags"] >> 4
        entries["node"] = entries["kernel"] = -1
        self._check_opcodes(headers)
        at = offsets + HEADER.itemsize
        for field, bit, absent in (("group", 1, -1), ("segment", 2, 0)):
            present = headers["options"] & bit > 0
            entries[field] = absent
            entries[field][present] = self._gather(at[present], np.dtype("<i4"))
            at[present] += 4
        operands = self._operands(entries, at)
        flags = self._flags(entries, at)
        ends = offsets + headers["bytes"]
        if (at > ends).any():
            raise self._fail(f"entry {int(np.flatnonzero(at > ends)[0])} is longer than it says")
        entries["attrs"] = self._attrs(headers["opcode"], at, ends, attrs)
        return entries, operands, flags

    def _check_opcodes(self, headers: np.ndarray) -> None:
        for code in np.unique(headers["opcode"]).tolist():
            if code not in BY_CODE:
                raise self._fail(f"opcode {code} is not known")

    def _operands(self, entries: np.ndarray, at: np.ndarray) -> np.ndarray:
        count = entries["operands"].astype(np.int64)
        entries["operand"] = np.cumsum(count) - count
        table = np.zeros(int(count.sum()), OPERAND)
        table["extents"] = 1
        roles = _role_table()
        for place in range(int(count.max()) if len(count) else 0):
            chosen = np.flatnonzero(count > place)
            head = self.image[np.minimum(at[chosen], len(self.image) - 1)]
            rank, near = head >> 4 & 3, head >= _NEAR_BIT
            if (rank == 0).any():
                raise self._fail("an operand has rank 0")
            for (size, short), dtype in OPERANDS.items():
                owner = chosen[(rank == size) & (near == short)]
                records = self._gather(at[owner], dtype)
                table[entries["operand"][owner] + place] = self._operand_rows(
                    records, entries["opcode"][owner], size, roles
                )
                at[owner] += dtype.itemsize
        return table

    def _operand_rows(self, records: np.ndarray, opcodes: np.ndarray, rank: int, roles: np.ndarray) -> np.ndarray:
        rows = np.zeros(len(records), OPERAND)
        role = roles[opcodes, records["slot"] & 15]
        if (role == 255).any():
            raise self._fail("an operand's slot is not one of its instruction's")
        rows["role"], rows["rank"] = role, rank
        rows["scope"], rows["dtype"] = records["type"] & 15, records["type"] >> 4
        rows["address"] = records["low"]
        if "high" in (records.dtype.names or ()):
            rows["address"] |= records["high"].astype(np.int64) << 32
        rows["extents"] = 1
        rows["extents"][:, :rank] = records["extents"]
        rows["strides"][:, : rank - 1] = records["strides"]
        if (rows["dtype"] >= len(DTYPES)).any():
            raise self._fail("an operand has a dtype that is not known")
        broadcast = records["slot"] & 64 > 0
        rows["strides"][:, rank - 1] = np.where(broadcast, 0, _ITEM_BYTES[rows["dtype"]])
        return rows

    def _flags(self, entries: np.ndarray, at: np.ndarray) -> np.ndarray:
        count = entries["waits"].astype(np.int64) + entries["sets"]
        entries["wait"] = np.cumsum(count) - count
        entries["set"] = entries["wait"] + entries["waits"]
        rows, owner = _spans(at, count)
        place = rows - at[owner]
        words = self._gather(at[owner] + 2 * place, np.dtype("<u2"))
        flags = np.zeros(len(words), FLAG)
        flags["kind"], flags["source"] = words >> 14, words >> 11 & 7
        flags["target"], flags["number"] = words >> 8 & 7, words & 255
        at += 2 * count
        return flags

    def _attrs(self, opcodes: np.ndarray, at: np.ndarray, ends: np.ndarray, attrs: dict[str, int]) -> list[int]:
        known: dict[tuple[int, bytes], int] = {}
        numbers = []
        for code, start, end in zip(opcodes.tolist(), at.tolist(), ends.tolist(), strict=True):
            key = (code, self.data[start:end])
            if key not in known:
                try:
                    text = json.dumps(decode_attrs(BY_CODE[code], key[1]), sort_keys=True)
                except (struct.error, ValueError, RecursionError) as error:
                    raise self._fail(f"the attributes of a {BY_CODE[code].name} cannot be read") from error
                known[key] = attrs.setdefault(text, len(attrs))
            numbers.append(known[key])
        return numbers


def _role_table() -> np.ndarray:
    """role[opcode, slot], 255 where the opcode has no such operand."""
    table = np.full((max(BY_CODE) + 1, 16), 255, np.uint8)
    for code, definition in BY_CODE.items():
        for slot, operand in enumerate(definition.operands):
            table[code, slot] = ROLES.index(operand.role)
    return table


def encode_attrs(definition: OpDef, attrs: Mapping[str, Any]) -> bytes:
    """Attributes by the table: a mask of those present, then each; nothing at all for none."""
    specs = {spec.name: spec for spec in definition.attrs}
    for name in attrs:
        if name not in specs:
            raise UserError(f"{definition.name} has no attribute {name}", where=_WHERE, action="remove it")
    if not attrs:
        return b""
    mask = sum(1 << place for place, spec in enumerate(definition.attrs) if spec.name in attrs)
    parts = [_pack(spec, attrs[spec.name], definition) for spec in definition.attrs if spec.name in attrs]
    return struct.pack("<H", mask) + b"".join(parts)


def decode_attrs(definition: OpDef, blob: bytes) -> dict[str, Any]:
    """The attributes in `blob`; raises `ValueError` or `struct.error` if it is not well formed."""
    if not blob:
        return {}
    (mask,), at, result = struct.unpack_from("<H", blob), 2, {}
    for place, spec in enumerate(definition.attrs):
        if mask >> place & 1:
            result[spec.name], at = _unpack(spec, blob, at)
    if at != len(blob) or mask >> len(definition.attrs):
        raise ValueError("attributes of another length")
    return result


_SCALARS = {"int": "<q", "bool": "<?"}
_NOT_FINITE = ("inf", "-inf", "nan")
"""A float is a tag and a value: a double, a whole number (which the arithmetic tells apart), or one of these."""


def _pack(spec: AttrSpec, value: Any, definition: OpDef) -> bytes:
    try:
        if spec.kind in _SCALARS:
            return struct.pack(_SCALARS[spec.kind], value)
        if spec.kind == "float":
            return _pack_float(value)
        if spec.kind == "ints":
            return struct.pack(f"<B{len(value)}i", len(value), *value)
        if spec.kind == "pads":
            flat = [edge for pair in value for edge in pair]
            return struct.pack(f"<B{len(flat)}i", len(flat), *flat)
        text = json.dumps(value).encode()
        return struct.pack("<H", len(text)) + text
    except (struct.error, TypeError, ValueError) as error:
        raise UserError(
            f"{definition.name}: attribute {spec.name} is {value!r}, not {spec.kind}", where=_WHERE, action="correct it"
        ) from error


def _pack_float(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<Bq", 2, _NOT_FINITE.index(value))
    return struct.pack("<Bq", 1, value) if isinstance(value, int) else struct.pack("<Bd", 0, value)


def _unpack_float(blob: bytes, at: int) -> Any:
    tag = struct.unpack_from("<B", blob, at)[0]
    value = struct.unpack_from("<d" if tag == 0 else "<q", blob, at + 1)[0]
    if tag < 2:
        return value
    return _NOT_FINITE[min(max(value, 0), 2)]


def _unpack(spec: AttrSpec, blob: bytes, at: int) -> tuple[Any, int]:
    if spec.kind in _SCALARS:
        form = _SCALARS[spec.kind]
        return struct.unpack_from(form, blob, at)[0], at + struct.calcsize(form)
    if spec.kind == "float":
        return _unpack_float(blob, at), at + 9
    if spec.kind in ("ints", "pads"):
        count = struct.unpack_from("<B", blob, at)[0]
        values = list(struct.unpack_from(f"<{count}i", blob, at + 1))
        if spec.kind == "pads":
            values = [[values[i], values[i + 1]] for i in range(0, count - 1, 2)]
        return values, at + 1 + 4 * count
    size = struct.unpack_from("<H", blob, at)[0]
    return json.loads(blob[at + 2 : at + 2 + size]), at + 2 + size
