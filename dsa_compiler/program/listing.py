"""The listing of `dsac disasm --json`: one JSON object, stable, from which the time can be accounted for again.

The top level holds `target` (the whole description), `macs`, `ddr_bytes`, the ddr regions that are written
before the program starts (`inputs`, `constants`) or read after it (`outputs`), `host_steps` and
`instructions`, one entry of a queue a line, in queue order. Fields that are empty are omitted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import numpy as np

from dsa_compiler.isa.definition import ROLES, OpDef
from dsa_compiler.isa.dtypes import DTYPES
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.program.tables import FLAG_KINDS, Binding, HostStep, Program, binding_bytes
from dsa_compiler.target import ENGINES, SCOPES

LISTED_COSTS = frozenset({"simple", "divide", "transcendental", "gather", "slide", "stage", "scan"})
"""The words of a listing's `cost`; a merge is listed as a stage with two sources, the rest as simple."""


def listing(program: Program) -> dict[str, Any]:
    """The listing as an object, for small programs and tests."""
    result: dict[str, Any] = json.loads("".join(listing_lines(program)))
    return result


def write_listing(program: Program, stream: TextIO) -> None:
    """Write the listing to `stream`, entry by entry."""
    stream.writelines(listing_lines(program))


def listing_lines(program: Program) -> Iterator[str]:
    """The listing as lines of text, each with its newline."""
    yield "{" + f'"target": {_json(program.target.source)},\n'
    yield f'"macs": {program.macs}, "ddr_bytes": {program.ddr_bytes},\n'
    yield f'"inputs": {_json([_region(b) for b in program.inputs])},\n'
    yield f'"outputs": {_json([_region(b) for b in program.outputs])},\n'
    constants = [{"address": c.address, "bytes": len(c.data)} for c in program.constants]
    yield f'"constants": {_json(constants)},\n'
    yield f'"host_steps": {_json([_host_step(s) for s in program.host_steps])},\n'
    yield '"instructions": [\n'
    last = len(program) - 1
    for number, text in enumerate(_entries(program)):
        yield text + (",\n" if number < last else "\n")
    yield "]}\n"


def listed_cost(definition: OpDef) -> str:
    """The word for an opcode's cost class in a listing."""
    if definition.cost == "merge":
        return "stage"
    return definition.cost if definition.cost in LISTED_COSTS else "simple"


def listed_attrs(definition: OpDef, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as listed: those of the entry and those that the opcode's name alone tells."""
    result = dict(attrs)
    if definition.feature == "sparse_2_4":
        result["sparse"] = True
    if definition.engine == "scalar" and "ops" not in result and "control" not in result:
        result["ops"] = 1
    return result


def flag_texts(program: Program) -> list[str]:
    """Each row of the flag table as `core:FROM>TO:N`, `cluster:N` or `chip:N`."""
    flags = program.flags
    return [
        f"core:{ENGINES[source]}>{ENGINES[target]}:{number}" if kind == 0 else f"{FLAG_KINDS[kind]}:{number}"
        for kind, source, target, number in zip(
            flags["kind"].tolist(), flags["source"].tolist(), flags["target"].tolist(), flags["number"].tolist(),
            strict=True,
        )
    ]  # fmt: skip


def _json(value: Any) -> str:
    try:
        return json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":"), sort_keys=True)
    except ValueError:
        return _json(_finite(value))


def _finite(value: Any) -> Any:
    """The same value with floats that JSON lacks as texts: "inf", "-inf", "nan"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    """Mappings that are not dicts, and NumPy scalars, as plain JSON values."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _region(binding: Binding) -> dict[str, Any]:
    return {
        "name": binding.name, "address": binding.address, "bytes": binding_bytes(binding),
        "shape": list(binding.shape), "dtype": binding.dtype,
    }  # fmt: skip


def _host_step(step: HostStep) -> dict[str, Any]:
    return {
        "segment": step.segment, "op": step.op, "node": step.node, "bytes_in": step.bytes_in,
        "bytes_out": step.bytes_out, "operations": step.operations, "reason": step.reason,
        "inputs": [_region(b) for b in step.inputs], "outputs": [_region(b) for b in step.outputs],
    }  # fmt: skip


def _operand_texts(program: Program) -> list[str]:
    """Each row of the operand table as a JSON object."""
    table = program.operands
    heads = {
        (role, scope, dtype): f'{{"role": "{r}", "scope": "{s}", "dtype": "{d}", "address": '
        for role, r in enumerate(ROLES)
        for scope, s in enumerate(SCOPES)
        for dtype, d in enumerate(DTYPES)
    }
    int4 = DTYPES.index("int4")
    texts = []
    for role, scope, dtype, rank, address, extents, strides in zip(
        *(table[name].tolist() for name in ("role", "scope", "dtype", "rank", "address", "extents", "strides")),
        strict=True,
    ):
        steps: list[float] = strides[:rank]
        if dtype == int4 and steps[-1]:
            steps = [*steps[:-1], 0.5]
        head = heads[role, scope, dtype]
        texts.append(f'{head}{address}, "extents": {extents[:rank]}, "strides": {steps}}}')
    return texts


def _entries(program: Program) -> Iterator[str]:
    operands, flags = _operand_texts(program), [f'"{text}"' for text in flag_texts(program)]
    attrs = _AttrTexts(program)
    nodes = [f', "node": {json.dumps(n)}' for n in program.nodes]
    kernels = [f', "kernel": {json.dumps(k)}' for k in program.kernels]
    names = program.entries.dtype.names or ()
    columns = [program.entries[name].tolist() for name in names]
    for number, row in enumerate(zip(*columns, strict=True)):
        (opcode, cluster, core, engine, group, segment, attr, operand, n_operands, wait, n_waits, set_, n_sets,
         node, kernel, instance) = row  # fmt: skip
        definition = BY_CODE[opcode]
        parts = [
            f'{{"id": {number}, "cluster": {cluster}, "core": {core if core >= 0 else "null"}, '
            f'"engine": "{ENGINES[engine]}", "op": "{definition.name}"'
        ]
        if group >= 0:
            parts.append(f', "group": {group}')
        if definition.cost != "control":
            parts.append(f', "cost": "{listed_cost(definition)}"')
        if n_operands:
            parts.append(f', "operands": [{", ".join(operands[operand : operand + n_operands])}]')
        parts.append(attrs.text(definition, attr, group))
        if n_waits:
            parts.append(f', "waits": [{", ".join(flags[wait : wait + n_waits])}]')
        if n_sets:
            parts.append(f', "sets": [{", ".join(flags[set_ : set_ + n_sets])}]')
        if segment:
            parts.append(f', "segment": {segment}')
        if node >= 0:
            parts.append(nodes[node])
        if kernel >= 0:
            parts.append(f'{kernels[kernel]}, "instance": {instance}')
        parts.append("}")
        yield "".join(parts)


class _AttrTexts:
    """`attrs` fields, made once for each opcode and attribute dictionary; a barrier's also names its group."""

    def __init__(self, program: Program) -> None:
        self._attrs = program.attrs
        self._texts: dict[tuple[int, int], str] = {}

    def text(self, definition: OpDef, number: int, group: int) -> str:
        """The field with its leading comma, or nothing if it would be empty."""
        if definition.name == "barrier":
            return f', "attrs": {_json({**self._attrs[number], "group": group})}'
        key = (definition.code, number)
        if key not in self._texts:
            attrs = listed_attrs(definition, self._attrs[number])
            self._texts[key] = f', "attrs": {_json(attrs)}' if attrs else ""
        return self._texts[key]
