"""What the hand-written programs are written with: lines of assembler text, and flags that count.

A flag counts, so one number serves a ring of buffers: the producer sets it for each fill and the consumer
takes one for each use, and one number in the other direction gives the slots back. That holds only
while all setters of the number have one latency; transfers from ddr and from llb take different numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

CORES = 8
"""Cores of a cluster of the part that these programs are written for."""

SIZE = {"f32": 4, "f16": 2, "i32": 4, "u8": 1}


def operand(role: str, place: str, dtype: str, extents: Sequence[int], strides: Sequence[int] | None = None) -> str:
    """An operand as text; `place` is scope[address], `strides` the outer ones in bytes (dense without)."""
    text = f"{role}={place} {dtype} {'x'.join(map(str, extents))}"
    return f"{text} :{','.join(map(str, strides))}" if strides else text


def dst(place: str, dtype: str, extents: Sequence[int], strides: Sequence[int] | None = None) -> str:
    """The destination."""
    return operand("dst", place, dtype, extents, strides)


def src(place: str, dtype: str, extents: Sequence[int], strides: Sequence[int] | None = None) -> str:
    """The source."""
    return operand("src", place, dtype, extents, strides)


class Ring:
    """The flags of a ring of `depth` buffers between two engines of a core, or of any two by a cluster flag."""

    def __init__(self, producer: str, consumer: str, number: int, depth: int) -> None:
        self.full = f"core:{producer}>{consumer}:{number}"
        self.free = f"core:{consumer}>{producer}:{number}"
        self.depth = depth

    def room(self, turn: int) -> list[str]:
        """What the producer waits for before fill number `turn`."""
        return [self.free] if turn >= self.depth else []


class Text:
    """Assembler lines of one program."""

    def __init__(self, target: Mapping[str, Any] | str) -> None:
        described = target if isinstance(target, str) else json.dumps(target, separators=(",", ":"))
        self.lines = [f".target {described}"]

    def tensor(self, kind: str, name: str, address: int, dtype: str, shape: Sequence[int]) -> None:
        """An input or output in ddr."""
        self.lines.append(f".{kind} {name} ddr[{address}] {dtype} {'x'.join(map(str, shape))}")

    def macs(self, count: int) -> None:
        """Useful multiply-accumulates."""
        self.lines.append(f".macs {count}")

    def on(
        self,
        core: int,
        engine: str,
        op: str,
        *operands: str,
        wait: Sequence[str] = (),
        set: Sequence[str] = (),
        group: int | None = None,
        **attrs: Any,
    ) -> None:
        """An entry in the queue of `engine` on a core, counted over the chip; `core` is the cluster for prefetch."""
        queue = f"c{core}" if engine == "prefetch" else f"c{core // CORES}.{core % CORES}"
        words = [f"{queue} {engine}: {op}", *operands]
        words += [f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in attrs.items()]
        words += [f"wait {','.join(wait)}"] if wait else []
        words += [f"set {','.join(set)}"] if set else []
        words += [f"@group={group}"] if group is not None else []
        self.lines.append(" ".join(words))

    def text(self) -> str:
        """The program."""
        return "\n".join(self.lines) + "\n"
