"""The regression over models: compile, run, compare, check; `python -m ci.zoo`.

Each case is a model on a part in a precision. By default every model runs once in float32 and once in float16, on
parts by rotation; `--all` runs every model on every part in both. A case passes if its outputs are within the
error bounds against ONNX Runtime (or, in float16, within 1.5 times the error that rounding the weights alone
causes; quantised models as `ci.quantized` says), if at least 99 % of its multiply-accumulates and 95 % of its element
operations were emitted, and if it has no host step. Of some cases the listing is accounted for again by
`tests/accountant`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
from onnx import ModelProto, numpy_helper

import dsa_compiler as dsac
from ci.quantized import INTEGER_MACS, integer_share, quantized_reference, references_spread, value_problems
from ci.zoo_cases import LARGE, NAMES, QUANTIZED, case_inputs, load_case
from dsa_compiler.runtime.executable import Executable
from dsa_compiler.verification import TOLERANCES, compare, reference_outputs

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("npu-v1", "npu-v2", "npu-edge", "npu-bench")
MANY_CORES = ("npu-v2", "npu-v1")
PRECISIONS = ("float32", "float16")
MACS_EMITTED, ELEMENT_OPS_EMITTED = 0.99, 0.95
CONDITIONING = 1.5
"""A float16 program may be this much worse than the reference with nothing but its weights rounded to float16."""

VALUES_LIMIT, ACCOUNT_LIMIT = 1_000_000, 60_000
"""Entries up to which a program is run in values, and its listing accounted for."""


@dataclass(frozen=True)
class Case:
    """A model on a part; `account`: its listing is accounted for too."""

    model: str
    part: str
    precision: str
    account: bool = False

    def __str__(self) -> str:
        return f"{self.model} {self.part} {self.precision}"


@dataclass
class Outcome:
    """What came of a case; `problems` is empty if it passes; `notes` say what bound was widened."""

    model: str
    part: str
    precision: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: float | None = None
    cosine: float | None = None
    run_s: float | None = None
    accounted: bool = False
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The problems, or that it passes and by which widened bound."""
        return "; ".join(self.problems) or "; ".join(["passes", *self.notes])


def rotation(names: tuple[str, ...], start: int = 0) -> list[Case]:
    """Every model once in each precision, part after part; every fourth case is accounted for."""
    result = []
    for number, name in enumerate(names):
        for offset, precision in enumerate(PRECISIONS):
            parts = parts_of(name)
            part = parts[(number + start + 2 * offset) % len(parts)]
            result.append(Case(name, part, precision, account=(number + offset) % 4 == 0))
    return result


def every(names: tuple[str, ...]) -> list[Case]:
    """Every model on every part in each precision, all accounted for."""
    return [Case(n, part, precision, True) for n in names for precision in PRECISIONS for part in parts_of(n)]


def parts_of(name: str) -> tuple[str, ...]:
    """The parts that a model is to run on."""
    return MANY_CORES if name in LARGE else PARTS


@lru_cache(maxsize=1)
def _reference(name: str, folder: Path) -> tuple[ModelProto, Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """The model, its inputs and the reference's outputs; the last one is kept."""
    model = load_case(name, folder)
    feeds = case_inputs(name, model)
    return model, feeds, quantized_reference(model, feeds) if name in QUANTIZED else reference_outputs(model, feeds)


def run_case(case: Case, folder: Path) -> Outcome:
    """Compile, run and check one case; an error of the toolchain is a problem of the case."""
    outcome = Outcome(case.model, case.part, case.precision)
    try:
        model, feeds, want = _reference(case.model, folder)
        executable = dsac.compile(model, case.part, case.precision)
        outcome.report = executable.report
        _check_report(outcome)
        if case.model in QUANTIZED and (share := integer_share(executable.program)) < INTEGER_MACS:
            outcome.problems.append(f"share of MACs in int8 on the matrix engine {share:.4f} < {INTEGER_MACS}")
        if len(executable.program) <= VALUES_LIMIT:
            _check_values(outcome, executable, model, feeds, want)
        if case.account and len(executable.program) <= ACCOUNT_LIMIT:
            _check_account(outcome, executable)
    except Exception as error:  # one case must not end the others
        outcome.problems.append(f"{type(error).__name__}: {error}")
    return outcome


def _check_report(outcome: Outcome) -> None:
    report = outcome.report
    for name, least in (("macs_emitted_share", MACS_EMITTED), ("element_ops_emitted_share", ELEMENT_OPS_EMITTED)):
        if report[name] is not None and report[name] < least:
            outcome.problems.append(f"{name} {report[name]:.4f} < {least}")
    if report["host_steps"]:
        outcome.problems.append(f"host steps: {', '.join(s['node'] for s in report['host_steps'])}")


def _check_values(
    outcome: Outcome,
    executable: Executable,
    model: ModelProto,
    feeds: Mapping[str, np.ndarray],
    want: Mapping[str, np.ndarray],
) -> None:
    """Compare with the reference; a case over the bound passes only if the model itself is that ill-conditioned."""
    start = time.perf_counter()
    got = executable.run(feeds)
    differences = compare(got, want)
    outcome.run_s = time.perf_counter() - start
    worst = max(differences, key=lambda d: d.error)
    outcome.error, outcome.cosine = worst.error, min(d.cosine for d in differences)
    if outcome.model in QUANTIZED:
        problems, notes = value_problems(got, want, references_spread(model, feeds, want))
        outcome.problems += problems
        outcome.notes += notes
        return
    bound = TOLERANCES[outcome.precision]
    over = [d for d in differences if not d.within(bound)]
    if over and outcome.precision == "float16":
        bound = replace(bound, error=max(bound.error, CONDITIONING * _conditioning(model, feeds, want)))
    for each in over:
        if each.within(bound):
            note = f"error {each.error:.2e} within {bound.error:.2e}, ill-conditioned"
            outcome.notes.append(f"output {each.output}: {note}")
        else:
            outcome.problems.append(f"output {each.output}: error {each.error:.2e}, cosine {each.cosine:.6f}")


def _conditioning(model: ModelProto, feeds: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> float:
    """The reference's own error when nothing but the weights is rounded to float16."""
    rounded = ModelProto()
    rounded.CopyFrom(model)
    for tensor in rounded.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            with np.errstate(over="ignore"):
                value = value.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return max(d.error for d in compare(reference_outputs(rounded, feeds), want))


def _check_account(outcome: Outcome, executable: Executable) -> None:
    """The accountant of the tests, from the listing alone: the same cycles, no race, no unwritten read."""
    from dsa_compiler.program.listing import listing
    from tests.accountant.account import account

    result = account(listing(executable.program), hazards=True)
    outcome.accounted = True
    if abs(result.cycles - outcome.report["cycles"]) > max(1.0, 1e-6 * result.cycles):
        outcome.problems.append(f"accounted {result.cycles:.2f} cycles, not {outcome.report['cycles']:.2f}")
    if result.hazards:
        outcome.problems.append(f"accounted {len(result.hazards)} hazards: {result.hazards[0]}")


def run_all(cases: list[Case], folder: Path, jobs: int) -> list[Outcome]:
    """Run the cases in `jobs` processes, a model at a time, with a line on stderr for each; results in order."""
    models = [[case for case in cases if case.model == name] for name in dict.fromkeys(c.model for c in cases)]
    if jobs == 1:
        return [outcome for group in models for outcome in run_group(group, folder)]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        return [outcome for group in pool.map(run_group, models, [folder] * len(models)) for outcome in group]


def run_group(cases: list[Case], folder: Path) -> list[Outcome]:
    """Run cases one after another."""
    outcomes = []
    for case in cases:
        start = time.perf_counter()
        outcomes.append(run_case(case, folder))
        verdict = outcomes[-1].verdict
        click.echo(f"{case}: {verdict} ({time.perf_counter() - start:.1f} s)", err=True)
    return outcomes


COLUMNS = (
    ("error", "{:.1e}"), ("cosine", "{:.6f}"), ("cycles", "{:,.0f}"), ("efficiency", "{:.3f}"),
    ("mac_utilization", "{:.3f}"), ("matrix_busy", "{:.3f}"), ("macs_emitted_share", "{:.4f}"),
    ("element_ops_emitted_share", "{:.4f}"), ("instructions", "{:,}"), ("compile_s", "{:.1f}"), ("run_s", "{:.1f}"),
)  # fmt: skip


def markdown(outcomes: list[Outcome]) -> str:
    """The outcomes as a Markdown table."""
    heads = ["model", "part", "precision", *(name.replace("_", " ") for name, _ in COLUMNS), "verdict"]
    rows = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for outcome in outcomes:
        values = {**outcome.report, "error": outcome.error, "cosine": outcome.cosine, "run_s": outcome.run_s}
        cells = ["" if values.get(name) is None else form.format(values[name]) for name, form in COLUMNS]
        verdict = outcome.verdict.replace("|", "/")
        rows.append("| " + " | ".join([outcome.model, outcome.part, outcome.precision, *cells, verdict]) + " |")
    return "\n".join(rows)


def record(outcomes: list[Outcome], folder: Path) -> None:
    """Write the outcomes to a file for each model, without the rows of layers; other cases there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(o.model for o in outcomes):
        path = folder / f"{name}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        for outcome in outcomes:
            if outcome.model == name:
                kept[f"{outcome.part} {outcome.precision}"] = _plain(outcome)
        path.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def _plain(outcome: Outcome) -> dict[str, Any]:
    row = asdict(outcome)
    row["report"] = {key: value for key, value in outcome.report.items() if key != "layers"}
    return row


@click.command()
@click.option("--all", "all_cases", is_flag=True, help="Every model on every part in both precisions.")
@click.option("--model", "wanted", multiple=True, type=click.Choice(NAMES), help="Only this model; repeat.")
@click.option("--part", "parts", multiple=True, help="Only cases on this part; repeat.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="Only in this precision.")
@click.option("--start", default=0, help="Shifts the rotation of parts.")
@click.option("--models", "folder", type=click.Path(path_type=Path), help="Folder of the ONNX files.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")
@click.option("--record", "recorded", is_flag=True, help="Write the results to models/results.")
def main(
    all_cases: bool, wanted: tuple[str, ...], parts: tuple[str, ...], precisions: tuple[str, ...], start: int,
    folder: Path | None, jobs: int, as_json: bool, recorded: bool,
) -> None:  # fmt: skip
    """Run the regression over models and print a table; exit with 1 if a case fails."""
    folder = folder or Path(os.environ.get("DSAC_MODELS", ROOT.parent / "shared" / "models"))
    cases = [
        case for case in (every(NAMES) if all_cases else rotation(NAMES, start))
        if (not wanted or case.model in wanted) and (not parts or case.part in parts)
        and (not precisions or case.precision in precisions)
    ]  # fmt: skip
    outcomes = run_all(cases, folder, jobs)
    click.echo(json.dumps([_plain(o) for o in outcomes], indent=1) if as_json else markdown(outcomes))
    if recorded:
        record(outcomes, ROOT / "models" / "results")
    failed = sum(bool(o.problems) for o in outcomes)
    click.echo(f"{len(outcomes) - failed} passed, {failed} failed", err=as_json)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
