"""Sets of standard networks by schedule: on small batches; the table, its files, and what is asked wrongly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import models
from ci.bench.graphturbo import findings
from dsa_compiler.cli import main
from dsa_compiler.errors import UserError
from dsa_compiler.zoo import BATCH1, GRAPHTURBO, SETS, Entry, NetworkSet, Outcome, Run, markdown, run_set, with_cores
from tests.lower.parts import part

TINY = NetworkSet(
    "tiny",
    "npu-v1",
    (
        Entry("tiny_cnn", "tiny_cnn", 4, 1000.0, 1.0),
        Entry("small image", "tiny_cnn", 4, None, 1.0, {"image": 16}, in_cycles=True, cores=2),
    ),
)


@pytest.mark.parametrize("name", SETS)
def test_every_network_of_a_set_can_be_built(name: str) -> None:
    for entry in SETS[name].entries:
        assert entry.network in models.names() and set(entry.options) <= set(models.options(entry.network))
    assert len({e.name for e in SETS[name].entries}) == len(SETS[name].entries)


def test_the_table_is_that_of_the_paper() -> None:
    rows = {e.name: (e.batch, e.published) for e in GRAPHTURBO.entries}
    assert len(rows) == 10 and rows["resnet50"] == (64, 8480) and rows["conformer"] == (12, 729)
    assert {e.name for e in BATCH1.entries if e.cores == 4} == {"resnet18 on four cores"}


def test_networks_by_schedule() -> None:
    outcomes = run_set(TINY, schedules=("none", "llb"))
    first, second = outcomes
    assert (first.batch, first.target, second.target) == (4, "npu-v1", "npu-v1-2")
    for outcome in outcomes:
        assert set(outcome.runs) == {"none", "llb"}
        assert outcome.runs["none"].schedule is None and outcome.runs["llb"].schedule is not None
        for run in outcome.runs.values():
            assert run.rate == pytest.approx(4e9 / run.cycles)
            assert 0 < run.matrix_busy < 1 and run.compile_s > 0
        assert outcome.runs["llb"].ddr_bytes < outcome.runs["none"].ddr_bytes
    assert first.met and not second.met


def run(cycles: float, rate: float) -> Run:
    return Run(cycles, rate, 0.25, 0.5, 1.5, 10, 0, None)


def outcome_of(entry: Entry, batch: int, **runs: Run) -> Outcome:
    return Outcome(entry, batch, "npu-v1", runs)


def test_text() -> None:
    rate, cycles = Entry("a", "a", 4, 50.0, 100.0), Entry("b", "b", 1, None, 1000.0, in_cycles=True)
    outcomes = [
        outcome_of(rate, 4, none=run(300, 40), llb=run(100, 120)), outcome_of(cycles, 1, none=run(2000, 3)),
        outcome_of(rate, 2, none=run(300, 40)),
    ]  # fmt: skip
    lines = markdown(outcomes).splitlines()
    assert lines[0] == (
        "| network | batch | part | unit | published | wanted | llb | none | gain over none | matrix busy | "
        "efficiency | compile s |  |"
    )
    assert lines[2] == "| a | 4 | npu-v1 | /s | 50 | 100 | 120 | 40 | 3.00 | 0.250 | 0.500 | 1.5 | as wanted |"
    assert lines[3] == "| b | 1 | npu-v1 | cycles |  | 1,000 |  | 2,000 | 1.00 | 0.250 | 0.500 | 1.5 | short |"
    assert lines[4].endswith("| another batch |")
    found = findings("tiny", outcomes)
    assert [(f.value, f.wanted, f.met) for f in found.figures] == [(120, 100, True), (2000, 1000, False)]
    assert len(found.rows) == 4


def test_unknown_networks_are_named() -> None:
    with pytest.raises(UserError, match=r"\[tiny\] there is no network 'vgg' in it; use tiny_cnn, small image"):
        run_set(TINY, networks=["vgg"])


def test_more_cores_share_the_cluster() -> None:
    four = with_cores(part("npu-bench"), 4)
    assert (four.name, four.cores, four.clusters) == ("npu-bench-4", 4, 1)
    assert four.memory["ddr"] == part("npu-bench").memory["ddr"]


def test_the_command(tmp_path: Path) -> None:
    arguments = ["zoo", "--network", "dlrm", "--batch", "4", "--schedule", "none", "--output", str(tmp_path / "r")]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert "| dlrm | 4 | npu-v1 | /s | 480,800 | 5,000,000 |" in shown.stdout
    assert (tmp_path / "r" / "graphturbo.md").read_text() == shown.stdout
    (row,) = json.loads((tmp_path / "r" / "graphturbo.json").read_text())
    assert row["entry"]["network"] == "dlrm" and row["runs"]["none"]["cycles"] > 0 and row["met"]
    (tmp_path / "file").write_text("")
    refused = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "file" / "r")])
    assert refused.exit_code == 2 and "cannot write there" in refused.output


def test_results_are_plain() -> None:
    json.dumps(dataclasses.asdict(outcome_of(GRAPHTURBO.entries[1], 1, none=run(1, 1))))
