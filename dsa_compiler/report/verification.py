"""What `dsac verify` says: levels, nodes, and where each node ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

WORST = 10
"""Nodes that are shown besides those that are wrong: the worst ones alone."""


class DifferenceLike(Protocol):
    """What a difference must tell: see `verification.Difference`."""

    @property
    def output(self) -> str: ...  # noqa: D102
    @property
    def error(self) -> float: ...  # noqa: D102
    @property
    def cosine(self) -> float: ...  # noqa: D102
    @property
    def distance(self) -> float: ...  # noqa: D102
    def within(self, tolerance: Any) -> bool: ...  # noqa: D102


def verification_report(
    levels: Sequence[Any], nodes: Sequence[Any], placements: Sequence[Any], tolerance: Any
) -> dict[str, Any]:
    """Plain JSON values: `levels`, `nodes`, `placement`, `first_bad` (a node's name, or None) and the `tolerance`.

    `levels` are `LevelResult`, `nodes` `NodeResult`, `placements` `Placement`, `tolerance` a `Tolerance`.
    """
    rows = [_node_row(result, tolerance) for result in nodes]
    alone = (row["node"] for row in rows if row["problem"] or (row["alone"] and not row["alone"]["pass"]))
    return {
        "tolerance": {"error": tolerance.error, "cosine": tolerance.cosine},
        "levels": [{"level": level.level, **_figures(d, tolerance)} for level in levels for d in level.differences],
        "first_bad": next(alone, next((row["node"] for row in rows if not row["pass"]), None)),
        "nodes": rows,
        "placement": [
            {"node": p.node, "op": p.op, "where": p.where, "layers": list(p.layers), "reason": p.reason}
            for p in placements
        ],
    }


def _figures(difference: DifferenceLike, tolerance: Any) -> dict[str, Any]:
    return {"output": difference.output, "error": difference.error, "cosine": difference.cosine,
            "distance": difference.distance, "pass": difference.within(tolerance)}  # fmt: skip


def _node_row(result: Any, tolerance: Any) -> dict[str, Any]:
    both = {
        name: None if difference is None else _figures(difference, tolerance)
        for name, difference in (("accumulated", result.accumulated), ("alone", result.alone))
    }
    return {"node": result.placement.node, "op": result.placement.op, **both, "problem": result.problem,
            "pass": result.within(tolerance)}  # fmt: skip


def print_verification(report: Mapping[str, Any], console: Console) -> None:
    """Show levels, the nodes that are wrong or worst, and every node that is not on the NPU."""
    table = _table("level", "output", "error", "cosine", "distance", "")
    for row in report["levels"]:
        table.add_row(row["level"], row["output"], *_cells(row), "passes" if row["pass"] else "WRONG")
    console.print(table)
    if report["nodes"]:
        console.print(_nodes_table(report["nodes"]))
        bad = report["first_bad"]
        text = "no node is beyond the tolerance" if bad is None else f"the first bad node is {bad}"
        console.print(f"{text} ({len(report['nodes'])} compared)", markup=False)
    counts = Counter(row["where"] for row in report["placement"])
    console.print(f"{counts['npu']} nodes on the NPU, {counts['none']} without work, {counts['host']} on the CPU")
    for row in report["placement"]:
        if row["where"] == "host":
            console.print(f"  {row['op']} {row['node']}: {row['reason']}", markup=False)


def _nodes_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    worst = sorted(rows, key=lambda row: -row["alone"]["error"] if row["alone"] else 0.0)[:WORST]
    table = _table("node", "op", "alone: error", "cosine", "distance", "accumulated: error", "cosine", "distance",
                   "seen at", "")  # fmt: skip
    for row in rows:
        if row["pass"] and row not in worst:
            continue
        seen = row["accumulated"]["output"] if row["accumulated"] else ""
        verdict = row["problem"] or ("passes" if row["pass"] else "WRONG")
        table.add_row(row["node"], row["op"], *_cells(row["alone"]), *_cells(row["accumulated"]), seen, verdict)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    return table


def _cells(row: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if row is None:
        return ("", "", "")
    return f"{row['error']:.3g}", f"{row['cosine']:.7f}", f"{row['distance']:.3g}"
