"""Sets of standard networks compiled and timed, with and without a layer schedule, beside published figures.

`graphturbo`: the networks of Zhao et al., OSDI 2023, at their batches on npu-v1, in samples a second. `batch1`: some
at batch 1 on npu-bench, in cycles, beside Stream 2.1, Vela 5.2 and ZigZag. Both in float16, time only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import dsa_compiler as dsac
from dsa_compiler.errors import UserError
from dsa_compiler.options import GRAPH_SCHEDULES, CompileOptions
from dsa_compiler.target import Target, load_target, target_from_dict


@dataclass(frozen=True)
class Entry:
    """A network of a set: `network` is a generator of `models` with `options`; `published` and `wanted` are samples a
    second, or cycles where `in_cycles`; `cores` None leaves the part as it is."""

    name: str
    network: str
    batch: int
    published: float | None
    wanted: float
    options: Mapping[str, Any] = field(default_factory=dict)
    in_cycles: bool = False
    cores: int | None = None


@dataclass(frozen=True)
class NetworkSet:
    """Networks that are shown in one table, and the part that they run on."""

    name: str
    target: str
    entries: tuple[Entry, ...]


def _bert(sequence: int, batch: int, published: float, wanted: float) -> Entry:
    return Entry(f"bert_{sequence}", "bert_base", batch, published, wanted, {"sequence": sequence})


GRAPHTURBO = NetworkSet(
    "graphturbo",
    "npu-v1",
    (
        Entry("resnet50", "resnet50", 64, 8480, 11500),
        _bert(128, 32, 4052, 4800),
        _bert(256, 16, 2678, 2350),
        _bert(384, 8, 280, 1400),
        _bert(512, 8, 2349, 1030),
        Entry("mobilenet_v2", "mobilenet_v2", 128, 11724, 32000),
        Entry("vit_b16", "vit_b16", 32, 1000, 2800),
        Entry("densenet121", "densenet121", 32, 8308, 13500),
        Entry("dlrm", "dlrm", 1024, 480800, 5000000),
        Entry("conformer", "conformer", 12, 729, 3000),
    ),
)
BATCH1 = NetworkSet(
    "batch1",
    "npu-bench",
    (
        Entry("resnet18", "resnet18", 1, 2.055e6, 1.98e6, in_cycles=True),
        Entry("resnet18 on four cores", "resnet18", 1, 0.781e6, 0.62e6, in_cycles=True, cores=4),
        Entry("resnet50", "resnet50", 1, 5.34e6, 4.5e6, in_cycles=True),
        Entry("mobilenet_v2", "mobilenet_v2", 1, 0.811e6, 0.75e6, in_cycles=True),
        Entry("bert2", "bert2", 1, None, 0.26e6, in_cycles=True),
    ),
)
SETS: Mapping[str, NetworkSet] = {each.name: each for each in (GRAPHTURBO, BATCH1)}


@dataclass(frozen=True)
class Run:
    """One compiled network: shares are in 0 to 1, seconds are of the compiler."""

    cycles: float
    rate: float
    matrix_busy: float
    efficiency: float | None
    compile_s: float
    ddr_bytes: int
    llb_peak_bytes: int
    schedule: Mapping[str, Any] | None


@dataclass(frozen=True)
class Outcome:
    """A network of a set at a batch, by schedule."""

    entry: Entry
    batch: int
    target: str
    runs: Mapping[str, Run]

    @property
    def best(self) -> Run:
        """The fastest run."""
        return min(self.runs.values(), key=lambda run: run.cycles)

    @property
    def met(self) -> bool:
        """Whether the best is as wanted; at another batch nothing is wanted."""
        if self.batch != self.entry.batch:
            return True
        best = self.best
        return best.cycles <= self.entry.wanted if self.entry.in_cycles else best.rate >= self.entry.wanted


def run_set(
    chosen: NetworkSet, *, networks: Sequence[str] = (), schedules: Sequence[str] = ("none", "llb"),
    target: str | Path | None = None, batch: int | None = None, progress: Callable[[str], None] = lambda step: None,
) -> list[Outcome]:  # fmt: skip
    """Compile and time the networks of a set, all or those named, by each schedule.

    `batch` replaces that of every network, `target` the part. Raises `UserError` for names that are unknown.
    """
    known = {entry.name: entry for entry in chosen.entries}
    for name in networks:
        if name not in known:
            raise UserError(f"there is no network {name!r} in it", where=chosen.name, action=f"use {', '.join(known)}")
    part = load_target(target or chosen.target)
    return [_outcome(known[name], part, schedules, batch, progress) for name in networks or known]


def _outcome(
    entry: Entry, part: Target, schedules: Sequence[str], batch: int | None, progress: Callable[[str], None]
) -> Outcome:
    import models

    made = part if entry.cores is None else with_cores(part, entry.cores)
    count = batch or entry.batch
    model = models.build(entry.network, batch=count, **entry.options)
    runs = {}
    for schedule in schedules:
        progress(f"{entry.name}, batch {count}, {schedule}")
        options = CompileOptions(precision="float16", graph_schedule=schedule)
        report = dsac.compile(model, made, options=options).report
        runs[schedule] = Run(
            report["cycles"], count * made.clock_ghz * 1e9 / report["cycles"], report["matrix_busy"],
            report["efficiency"], report["compile_s"], report["ddr_bytes_read"] + report["ddr_bytes_written"],
            report["llb_peak_bytes"], report["schedule"],
        )  # fmt: skip
    return Outcome(entry, count, made.name, runs)


def with_cores(part: Target, cores: int) -> Target:
    """The part with so many cores in each cluster, which share its llb and ddr."""
    source = {**part.source, "name": f"{part.name}-{cores}", "cores_per_cluster": cores}
    return replace(target_from_dict(source, f"{part.name} with {cores} cores"), name=source["name"])


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a table: samples a second (or cycles) by schedule, then figures of the fastest."""
    schedules = [s for s in GRAPH_SCHEDULES if any(s in o.runs for o in outcomes)]
    heads = ["network", "batch", "part", "unit", "published", "wanted", *schedules, "gain over none", "matrix busy",
             "efficiency", "compile s", ""]  # fmt: skip
    lines = [heads, ["---"] * len(heads)]
    for outcome in outcomes:
        entry, best = outcome.entry, outcome.best
        figures = {s: run.cycles if entry.in_cycles else run.rate for s, run in outcome.runs.items()}
        gain = f"{outcome.runs['none'].cycles / best.cycles:.2f}" if "none" in outcome.runs else ""
        lines.append([
            entry.name, str(outcome.batch), outcome.target, "cycles" if entry.in_cycles else "/s",
            _count(entry.published), _count(entry.wanted), *(_count(figures.get(s)) for s in schedules), gain,
            f"{best.matrix_busy:.3f}", "" if best.efficiency is None else f"{best.efficiency:.3f}",
            f"{best.compile_s:.1f}", _verdict(outcome),
        ])  # fmt: skip
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _verdict(outcome: Outcome) -> str:
    if outcome.batch != outcome.entry.batch:
        return "another batch"
    return "as wanted" if outcome.met else "short"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def plain(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The outcomes as JSON values."""
    return [{**asdict(outcome), "met": outcome.met} for outcome in outcomes]


def record(chosen: NetworkSet, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write the outcomes to a JSON and a Markdown file named as the set. Raises `UserError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{chosen.name}.json").write_text(json.dumps(plain(outcomes), indent=1) + "\n")
        (folder / f"{chosen.name}.md").write_text(markdown(outcomes))
    except OSError as error:
        action = "choose another folder"
        raise UserError(f"cannot write there: {error.strerror}", where=str(folder), action=action) from error
