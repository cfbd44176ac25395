"""Assembler text: a program that a person can write and read, one entry a line.

    .target npu-v1                                 a part's name, a TOML path, or a description in JSON
    .input x ddr[0] f16 8x56                       and .output; `-` is the shape of a scalar
    .const ddr[4096] AAECAw==                      weights, base64
    .ddr 8192                                      bytes of ddr in use;  .macs 1024;  .info {"batch":1}
    c0.3 load: load dst=l1[4096] f16 8x56 :128 src=ddr[0] f16 8x56 wait core:move>load:3 set core:load>move:3
    c0 prefetch: prefetch dst=llb[0] f16 448 src=ddr[0] f16 448 set cluster:4
    c0.3 move: img2col dst=... src=... kernel=[3,3] stride=[1,1] pad=[1,1,1,1] @node=Conv_12

An operand is `role=scope[address] dtype extents :strides`. Strides are bytes, outermost first and comma
separated; without the innermost one it is the element size, without any the rows are dense. Other `key=value`
words are attributes in JSON without blanks. `@group @segment @node @kernel @instance` are the entry's own.
`#` begins a comment. Order within a queue is the order of the lines.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.definition import ROLES
from dsa_compiler.isa.dtypes import DTYPES, item_bytes
from dsa_compiler.isa.table import BY_CODE, OPCODES
from dsa_compiler.program.builder import Flag, Operand, ProgramBuilder
from dsa_compiler.program.listing import flag_texts
from dsa_compiler.program.tables import Binding, Constant, HostStep, Program
from dsa_compiler.target import CORE_ENGINES, ENGINES, SCOPES, Target, load_target, target_from_dict

SHORT_DTYPES = {
    "float32": "f32", "float16": "f16", "bfloat16": "bf16", "float8_e4m3fn": "f8e4m3", "float8_e5m2": "f8e5m2",
    "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8", "int4": "i4", "bool": "bool",
}  # fmt: skip
DTYPE_NAMES = {**{short: name for name, short in SHORT_DTYPES.items()}, **{name: name for name in DTYPES}}

_WORD = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s"#])+|#|"')
_QUEUE = re.compile(r"c(\d+)(?:\.(\d+))?")
_PLACE = re.compile(r"([a-z0-9]+)\[(0x[0-9a-fA-F]+|\d+)\]")
_CORE_FLAG = re.compile(r"core:([a-z]+)>([a-z]+):(\d+)")
_WIDE_FLAG = re.compile(r"(cluster|chip):(\d+)")
_OWN = ("group", "segment", "node", "kernel", "instance")


# -- printing ---------------------------------------------------------------------------------------------


def print_program(program: Program) -> str:
    """The whole program as assembler text; `parse_program` reads it back."""
    return "\n".join(assembly_lines(program)) + "\n"


def assembly_lines(program: Program) -> Iterator[str]:
    """Directives, then one line an entry."""
    yield f".target {_dump(program.target.source)}"
    yield f".ddr {program.ddr_bytes}"
    yield f".macs {program.macs}"
    if program.info:
        yield f".info {_dump(program.info)}"
    for word, bindings in ((".input", program.inputs), (".output", program.outputs)):
        for binding in bindings:
            yield f"{word} {_binding_text(binding)}"
    for constant in program.constants:
        yield f".const ddr[{constant.address}] {base64.b64encode(constant.data.tobytes()).decode()}"
    for step in program.host_steps:
        yield f".host {_dump(_host_row(step))}"
    yield from _entry_lines(program)


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=dict)


def _name(text: str) -> str:
    """A name as a word, quoted where it would not read back as one."""
    return text if re.fullmatch(r"[^\s\"#]+", text) else json.dumps(text)


def _extents(shape: tuple[int, ...] | list[int]) -> str:
    return "x".join(map(str, shape)) or "-"


def _binding_text(binding: Binding) -> str:
    dtype = SHORT_DTYPES[binding.dtype]
    return f"{_name(binding.name)} ddr[{binding.address}] {dtype} {_extents(binding.shape)}"


def _host_row(step: HostStep) -> dict[str, Any]:
    return {
        "segment": step.segment, "op": step.op, "node": step.node, "operations": step.operations,
        "reason": step.reason, "inputs": [_binding_text(b) for b in step.inputs],
        "outputs": [_binding_text(b) for b in step.outputs], "model": base64.b64encode(step.model).decode(),
    }  # fmt: skip


def _operand_text(row: Any) -> str:
    """One row of the operand table, as a tuple of Python values."""
    role, scope, dtype, rank, address, extents, strides = row
    name = DTYPES[dtype]
    operand = Operand(ROLES[role], SCOPES[scope], address, name, tuple(extents[:rank]), tuple(strides[:rank]))
    dense = Operand(operand.role, operand.scope, address, name, operand.extents).byte_strides()
    text = f"{operand.role}={operand.scope}[{address}] {SHORT_DTYPES[name]} {_extents(operand.extents)}"
    if operand.byte_strides() == dense:
        return text
    shown = strides[:rank] if strides[rank - 1] != item_bytes(name) else strides[: rank - 1]
    return f"{text} :{','.join(map(str, shown))}"


def _entry_lines(program: Program) -> Iterator[str]:
    operands = [
        _operand_text((o["role"], o["scope"], o["dtype"], o["rank"], int(o["address"]), e, s))
        for o, e, s in zip(
            program.operands, program.operands["extents"].tolist(), program.operands["strides"].tolist(), strict=True
        )
    ]
    flags = flag_texts(program)
    attrs = ["".join(f" {key}={_dump(value)}" for key, value in a.items()) for a in program.attrs]
    columns = [program.entries[name].tolist() for name in program.entries.dtype.names or ()]
    for row in zip(*columns, strict=True):
        (opcode, cluster, core, engine, group, segment, attr, operand, n_operands, wait, n_waits, set_, n_sets,
         node, kernel, instance) = row  # fmt: skip
        queue = f"c{cluster}.{core}" if core >= 0 else f"c{cluster}"
        words = [f"{queue} {ENGINES[engine]}: {BY_CODE[opcode].name}", *operands[operand : operand + n_operands]]
        text = " ".join(words) + attrs[attr]
        if n_waits:
            text += f" wait {','.join(flags[wait : wait + n_waits])}"
        if n_sets:
            text += f" set {','.join(flags[set_ : set_ + n_sets])}"
        for key, value, absent in (("group", group, -1), ("segment", segment, 0), ("instance", instance, 0)):
            if value != absent:
                text += f" @{key}={value}"
        if node >= 0:
            text += f" @node={_name(program.nodes[node])}"
        if kernel >= 0:
            text += f" @kernel={_name(program.kernels[kernel])}"
        yield text


# -- parsing ----------------------------------------------------------------------------------------------


def parse_program(text: str, where: str = "assembler", target: Target | None = None) -> Program:
    """The program that `text` describes; `target` overrides its `.target`.

    Raises `UserError` naming the line and the word that is wrong.
    """
    parser = _Parser(where, target)
    for number, line in enumerate(text.splitlines(), 1):
        parser.line(number, line)
    return parser.program()


class _Parser:
    """Reads line after line into a builder, which exists once the target is known."""

    def __init__(self, where: str, target: Target | None) -> None:
        self._where, self._number = where, 0
        self._fixed = target is not None
        self._builder = ProgramBuilder(target) if target is not None else None
        self._ddr = self._macs = 0
        self._info: dict[str, Any] = {}
        self._operands: dict[tuple[str, ...], Operand] = {}

    def _fail(self, problem: str, action: str = "correct the line") -> UserError:
        return UserError(problem, where=f"{self._where}:{self._number}", action=action)

    def _target_builder(self) -> ProgramBuilder:
        if self._builder is None:
            raise self._fail("no .target yet", "begin with a .target line")
        return self._builder

    def program(self) -> Program:
        """The program, once every line was read."""
        return self._target_builder().build(self._ddr, self._macs, self._info)

    def line(self, number: int, line: str) -> None:
        """Read one line."""
        self._number = number
        text = line.strip()
        if not text or text[0] == "#":
            return
        if text[0] == ".":
            word, _, rest = text.partition(" ")
            self._directive(word, rest.strip())
            return
        self._entry(self._words(text))

    def _words(self, text: str) -> list[str]:
        if '"' not in text:
            return text.partition("#")[0].split()
        words = _WORD.findall(text)
        return words[: words.index("#")] if "#" in words else words

    def _directive(self, word: str, rest: str) -> None:
        if word == ".target":
            if not self._fixed:
                self._builder = ProgramBuilder(self._target(rest))
        elif word in (".input", ".output"):
            builder = self._target_builder()
            (builder.inputs if word == ".input" else builder.outputs).append(self._binding(rest))
        elif word == ".const":
            self._target_builder().constants.append(self._constant(rest))
        elif word == ".host":
            self._target_builder().host_steps.append(self._host_step(rest))
        elif word == ".ddr":
            self._ddr = self._integer(rest.partition("#")[0].strip())
        elif word == ".macs":
            self._macs = self._integer(rest.partition("#")[0].strip())
        elif word == ".info":
            self._info = self._object(rest)
        else:
            raise self._fail(f"no directive is called {word}")

    def _target(self, rest: str) -> Target:
        if rest.startswith("{"):
            return target_from_dict(self._object(rest), f"{self._where}:{self._number}")
        return load_target(rest)

    def _integer(self, text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            raise self._fail(f"{text!r} is no whole number") from None
        if value < 0:
            raise self._fail(f"{text!r} is negative")
        return value

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise self._fail(f"{text[:40]!r} is no JSON value") from None

    def _object(self, text: str) -> dict[str, Any]:
        value = self._json(text)
        if not isinstance(value, dict):
            raise self._fail(f"{text[:40]!r} is no JSON object")
        return value

    def _text(self, word: str) -> str:
        if not word.startswith('"'):
            return word
        value = self._json(word)
        if not isinstance(value, str):
            raise self._fail(f"{word!r} is no name")
        return value

    def _place(self, word: str) -> tuple[str, int]:
        match = _PLACE.fullmatch(word)
        if not match or match[1] not in SCOPES:
            raise self._fail(f"{word!r} is no place; write scope[address] with a scope of {', '.join(SCOPES)}")
        return match[1], int(match[2], 0)

    def _dtype(self, word: str) -> str:
        if word not in DTYPE_NAMES:
            raise self._fail(f"{word!r} is no dtype; use one of {', '.join(SHORT_DTYPES.values())}")
        return DTYPE_NAMES[word]

    def _shape(self, word: str) -> tuple[int, ...]:
        return () if word == "-" else tuple(self._integer(part) for part in word.split("x"))

    def _binding(self, rest: str) -> Binding:
        words = self._words(rest)
        if len(words) != 4:
            raise self._fail("a binding is a name, a place in ddr, a dtype and a shape")
        return Binding(self._text(words[0]), self._ddr_address(words[1]), self._shape(words[3]), self._dtype(words[2]))

    def _ddr_address(self, word: str) -> int:
        scope, address = self._place(word)
        if scope != "ddr":
            raise self._fail(f"{word!r} is not in ddr")
        return address

    def _base64(self, word: str) -> bytes:
        try:
            return base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            raise self._fail(f"{word[:40]!r} is no base64") from None

    def _constant(self, rest: str) -> Constant:
        place, _, data = rest.partition(" ")
        return Constant(self._ddr_address(place), np.frombuffer(self._base64(data.strip()), np.uint8))

    def _host_step(self, rest: str) -> HostStep:
        row = self._object(rest)
        try:
            return HostStep(
                segment=int(row["segment"]), op=str(row["op"]), node=str(row["node"]),
                inputs=tuple(self._binding(b) for b in row["inputs"]),
                outputs=tuple(self._binding(b) for b in row["outputs"]),
                operations=int(row["operations"]), reason=str(row["reason"]), model=self._base64(row["model"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._fail(f"the host step is not well formed: {error}") from error

    def _entry(self, words: list[str]) -> None:
        builder = self._target_builder()
        if len(words) < 3 or not words[1].endswith(":"):
            raise self._fail("an entry is a queue, an engine with a colon, and an instruction")
        cluster, core, engine = self._queue(words[0], words[1][:-1])
        op = words[2]
        if op not in OPCODES:
            raise self._fail(f"no instruction is called {op}")
        if OPCODES[op].cost != "control" and OPCODES[op].engine != engine:
            raise self._fail(f"{op} belongs to the {OPCODES[op].engine} engine, not to {engine}")
        fields = self._fields(words)
        builder.add(op, cluster=cluster, core=core, engine=engine, **fields)

    def _queue(self, place: str, engine: str) -> tuple[int, int, str]:
        match = _QUEUE.fullmatch(place)
        if not match:
            raise self._fail(f"{place!r} is no queue; write c0.3 for core 3 of cluster 0, or c0 for its prefetch")
        if engine not in ENGINES:
            raise self._fail(f"no engine is called {engine!r}")
        if (engine in CORE_ENGINES) != (match[2] is not None):
            raise self._fail(f"{place!r} has no {engine} engine")
        return int(match[1]), int(match[2] or 0), engine

    def _fields(self, words: list[str]) -> dict[str, Any]:
        """Keyword arguments of `ProgramBuilder.add` from the words after the instruction."""
        operands: list[Operand] = []
        attrs: dict[str, Any] = {}
        fields: dict[str, Any] = {"operands": operands, "attrs": attrs}
        at = 3
        while at < len(words):
            word = words[at]
            key, equals, value = word.partition("=")
            if word in ("wait", "set"):
                fields[f"{word}s"] = self._flags(words, at + 1)
                at += 2
            elif equals and key in ROLES and value.endswith("]") and not value.startswith("["):
                at = self._operand(words, at, operands)
            elif equals and key.startswith("@") and key[1:] in _OWN:
                own = key[1:]
                fields[own] = self._text(value) if own in ("node", "kernel") else self._integer(value)
                at += 1
            elif equals and key:
                attrs[key] = self._json(value)
                at += 1
            else:
                raise self._fail(f"{word!r} is neither an operand, an attribute, wait nor set")
        return fields

    def _operand(self, words: list[str], at: int, operands: list[Operand]) -> int:
        """Append the operand that begins at word `at`; return the place after it."""
        end = at + 3
        if end < len(words) and words[end].startswith(":"):
            end += 1
        key = tuple(words[at:end])
        if key not in self._operands:
            self._operands[key] = self._new_operand(key)
        operands.append(self._operands[key])
        return end

    def _new_operand(self, words: tuple[str, ...]) -> Operand:
        if len(words) < 3:
            raise self._fail(f"operand {words[0]!r} has no dtype and extents")
        role, _, place = words[0].partition("=")
        scope, address = self._place(place)
        dtype, extents = self._dtype(words[1]), self._shape(words[2])
        if not 1 <= len(extents) <= 3:
            raise self._fail(f"operand {words[0]!r} has {len(extents)} extents, and an instruction takes 1 to 3")
        if 0 in extents:
            raise self._fail(f"operand {words[0]!r} has an extent of 0")
        if len(words) == 3:
            return Operand(role, scope, address, dtype, extents)
        strides = tuple(self._integer(part) for part in words[3][1:].split(","))
        if len(strides) == len(extents) - 1:
            strides = (*strides, item_bytes(dtype))
        if len(strides) != len(extents):
            raise self._fail(f"operand {words[0]!r} has {len(extents)} extents and strides {words[3]!r}")
        return Operand(role, scope, address, dtype, extents, strides)

    def _flags(self, words: list[str], at: int) -> list[Flag]:
        if at >= len(words):
            raise self._fail(f"{words[at - 1]} names no flag")
        return [self._flag(word) for word in words[at].split(",")]

    def _flag(self, word: str) -> Flag:
        if match := _CORE_FLAG.fullmatch(word):
            for engine in (match[1], match[2]):
                if engine not in CORE_ENGINES:
                    raise self._fail(f"flag {word!r}: a core has no engine {engine!r}")
            return Flag("core", int(match[3]), match[1], match[2])
        if match := _WIDE_FLAG.fullmatch(word):
            return Flag(match[1], int(match[2]))
        raise self._fail(f"{word!r} is no flag; write core:FROM>TO:N, cluster:N or chip:N")
