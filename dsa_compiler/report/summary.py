"""The report of a program: one dict of plain JSON values, from its tables and a run in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.cost import entry_costs
from dsa_compiler.program.encoding import program_bytes
from dsa_compiler.program.tables import Program
from dsa_compiler.report.bytes_moved import peak_bytes
from dsa_compiler.report.layers import LayerSums, layer_rows
from dsa_compiler.simulator.timing import Timing, time_program

UNKNOWN: Mapping[str, Any] = {
    "kind": "", "master": "", "slaves": (), "onnx_nodes": (), "tile": "", "group": None, "macs": 0, "element_ops": 0,
    "folded_ops": 0, "host_step": None,
}  # fmt: skip
"""Facts of a layer that its program does not hold, as in a program written by hand."""


def build_report(program: Program, timing: Timing | None = None) -> dict[str, Any]:
    """The report of `program`; `timing` is its run in time, made here if it is not given.

    Cycles and bytes are those of one run of the whole batch; shares and efficiencies lie in 0 to 1, and are None
    where the program does not say what the model needs. Raises `UserError` if its `info` is malformed.
    """
    costs = entry_costs(program)
    timing = timing or time_program(program, costs=costs)
    info, facts = dict(program.info), _facts(program)
    sums = LayerSums(program, timing, costs, [fact["host_step"] for fact in facts])
    busy = timing.busy_share()
    cycles = timing.cycles
    return {
        "model": info.get("model", ""),
        "target": program.target.name,
        "precision": info.get("precision", ""),
        "batch": info.get("batch"),
        "cycles": cycles,
        "time_ms": cycles / (program.target.clock_ghz * 1e6),
        "ideal_cycles": info.get("ideal_cycles"),
        "efficiency": _quotient(info.get("ideal_cycles"), cycles),
        "mac_utilization": _quotient(info.get("mac_cycles"), cycles),
        "matrix_busy": busy["matrix"],
        "vector_busy": busy["vector"],
        "busy": busy,
        "macs": program.macs,
        **emitted_shares(sums, facts, info.get("outside", {})),
        "ddr_bytes_read": int(timing.traffic["ddr", "read"]),
        "ddr_bytes_written": int(timing.traffic["ddr", "written"]),
        "llb_peak_bytes": peak_bytes(program, "llb"),
        "l1_peak_bytes": peak_bytes(program, "l1"),
        "instructions": len(program),
        "opcodes": opcode_counts(program),
        "program_bytes": sum(program_bytes(program).values()),
        "bank_conflict_cycles": timing.conflict_cycles,
        "host_steps": [_host_step(step) for step in program.host_steps],
        "feedback": dict(info.get("feedback", {})),
        "schedule": info.get("schedule"),
        "compile_s": info.get("compile_s"),
        "layers": layer_rows(sums, facts),
    }


def emitted_shares(
    sums: LayerSums, facts: Sequence[Mapping[str, Any]], outside: Mapping[str, int]
) -> dict[str, float | None]:
    """The shares of the model's multiply-accumulates and element operations that entries carry out.

    They are taken over groups of layers that share ONNX nodes, and none counts for more than the model needs of
    it. Scales and offsets that a product's weights and bias took in count as done by its entries.
    """
    group = np.array([n if f["group"] is None else f["group"] for n, f in enumerate(facts)], np.int64)
    return {
        "macs_emitted_share": _share(group, facts, sums.macs, "macs", outside),
        "element_ops_emitted_share": _share(group, facts, sums.operations, "element_ops", outside),
    }


def _share(
    group: np.ndarray, facts: Sequence[Mapping[str, Any]], done: np.ndarray, what: str, outside: Mapping[str, int]
) -> float | None:
    wanted = np.bincount(group, weights=[float(f[what]) for f in facts], minlength=1)
    done = np.bincount(group, weights=done, minlength=1)
    if what == "element_ops":
        done = done + np.bincount(group, weights=[float(f["folded_ops"]) for f in facts], minlength=1)
    total = float(wanted.sum()) + outside.get(what, 0)
    return float(np.minimum(wanted, done).sum()) / total if total else None


def opcode_counts(program: Program) -> dict[str, int]:
    """How often each opcode stands in the program, by name."""
    from dsa_compiler.isa.table import BY_CODE

    codes, counts = np.unique(program.entries["opcode"], return_counts=True)
    return {BY_CODE[int(c)].name: int(n) for c, n in zip(codes, counts, strict=True)}


def _facts(program: Program) -> list[dict[str, Any]]:
    """What the program holds of each layer's origin."""
    rows = program.info.get("layers", [{}] * len(program.kernels))
    if not isinstance(rows, Sequence) or len(rows) != len(program.kernels):
        raise _malformed("layers")
    facts = [{**UNKNOWN, **row} for row in rows if isinstance(row, Mapping)]
    if len(facts) != len(rows):
        raise _malformed("layers")
    for fact in facts:
        numbers = [fact["macs"], fact["element_ops"], fact["folded_ops"], fact["group"] or 0]
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or (fact["group"] or 0) >= len(rows):
            raise _malformed("layers")
        if fact["host_step"] is not None and fact["host_step"] not in range(len(program.host_steps)):
            raise _malformed("layers")
    return facts


def _malformed(key: str) -> UserError:
    return UserError(f"the program's {key} do not fit it", where="report", action="compile the model again")


def _host_step(step: Any) -> dict[str, Any]:
    return {
        "op": step.op, "node": step.node, "reason": step.reason, "segment": step.segment, "bytes_in": step.bytes_in,
        "bytes_out": step.bytes_out, "operations": step.operations,
    }  # fmt: skip


def _quotient(part: Any, whole: float) -> float | None:
    return float(part) / whole if isinstance(part, (int, float)) and whole else None
