"""Reports as text for people: a summary and a table of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Report = Mapping[str, Any]

_LAYER_COLUMNS = ("layer", "kind", "cycles", "share", "bound by", "matrix", "vector", "ddr bytes", "cores", "tile")
_WORDS = ("layer", "kind", "bound by", "tile")


def print_report(report: Report, console: Console, layers: int = 0) -> None:
    """Print the summary, and the `layers` layers that take longest (0: none, -1: all in order)."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in summary_rows(report):
        table.add_row(name, value)
    console.print(table)
    if layers and report["layers"]:
        console.print(layer_table(report, layers))


def summary_rows(report: Report) -> list[tuple[str, str]]:
    """(name, value) of the figures that matter first."""
    return [
        ("model", f"{report['model'] or 'unnamed'}, batch {report['batch'] or 'unknown'}, {report['precision'] or ''}"),
        ("part", str(report["target"])),
        ("time", f"{report['cycles']:,.0f} cycles, {report['time_ms']:.3f} ms"),
        ("bound", f"{_number(report['ideal_cycles'])} cycles, efficiency {_share(report['efficiency'])}"),
        ("MACs", f"{report['macs']:,}, utilization {_share(report['mac_utilization'])}"),
        ("emitted", f"MACs {_share(report['macs_emitted_share'])}, "
                    f"element operations {_share(report['element_ops_emitted_share'])}"),
        ("busy", ", ".join(f"{engine} {_share(share)}" for engine, share in report["busy"].items() if share)),
        ("ddr", f"{report['ddr_bytes_read']:,} bytes read, {report['ddr_bytes_written']:,} written"),
        ("on chip", f"l1 {report['l1_peak_bytes']:,} bytes, llb {report['llb_peak_bytes']:,} bytes at most"),
        ("schedule", _schedule(report["schedule"])),
        ("program", f"{report['instructions']:,} instructions, {report['program_bytes']:,} bytes"),
        ("bank conflicts", f"{report['bank_conflict_cycles']:,.0f} cycles"),
        ("host steps", ", ".join(f"{s['op']} {s['node']}: {s['reason']}" for s in report["host_steps"]) or "none"),
        ("compiled", "unknown" if report["compile_s"] is None else f"in {report['compile_s']:.1f} s"),
    ]  # fmt: skip


def _schedule(schedule: Report | None) -> str:
    """A layer schedule in a line."""
    if schedule is None:
        return "layer by layer"
    images = ", ".join(str(n) for n in schedule["images_an_instance"][:12])
    more = ", ..." if len(schedule["images_an_instance"]) > 12 else ""
    return (
        f"{_counted(schedule['groups'], 'group')} of {images}{more} images an instance, "
        f"{_counted(schedule['instances'], 'instance')}, "
        f"{schedule['tensors_in_llb']} of {schedule['activations']} activations in llb, "
        f"{schedule['expected_cycles']:,.0f} cycles expected"
    )


def layer_table(report: Report, count: int) -> Table:
    """The layers that take longest, or all of them in order if `count` is negative."""
    rows: Sequence[Report] = report["layers"]
    if count >= 0:
        rows = sorted(rows, key=lambda row: -row["cycles"])[:count]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in _LAYER_COLUMNS:
        table.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*_layer_cells(row, report["cycles"]))
    return table


def _layer_cells(row: Report, total: float) -> list[str]:
    length = max(row["running"], 1e-9)
    moved = row["bytes"]["ddr_read"] + row["bytes"]["ddr_written"]
    return [
        _short(row["name"], 40), str(row["kind"]),
        f"{row['cycles']:,.0f}", _share(row["cycles"] / total if total else None),
        str(row["bound_by"]), _share(row["busy"]["matrix"] / length), _share(row["busy"]["vector"] / length),
        f"{moved:,}", str(row["cores"]), _short(row["tile"], 60),
    ]  # fmt: skip


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}"
