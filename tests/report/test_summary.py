"""The report of a program written by hand, figure by figure."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from dsa_compiler.errors import UserError
from dsa_compiler.program.assembler import parse_program
from dsa_compiler.program.tables import Binding, HostStep, Program
from dsa_compiler.report import build_report
from dsa_compiler.report.text import print_report

FIELDS = {
    "model", "target", "precision", "batch", "cycles", "time_ms", "ideal_cycles", "efficiency", "mac_utilization",
    "matrix_busy", "vector_busy", "macs", "macs_emitted_share", "element_ops_emitted_share", "ddr_bytes_read",
    "ddr_bytes_written", "llb_peak_bytes", "l1_peak_bytes", "instructions", "program_bytes", "bank_conflict_cycles",
    "host_steps", "feedback", "schedule", "compile_s", "layers",
}  # fmt: skip
LAYER_FIELDS = {
    "name", "onnx_nodes", "kind", "master", "slaves", "cycles", "running", "bound_by", "busy", "bytes", "tile", "cores",
}  # fmt: skip

TENSOR = "f16 16x64"
HEAD = f".target npu-edge\n.input x ddr[0] {TENSOR}\n.output y ddr[4096] {TENSOR}\n"
ENTRIES = (
    f"load: load dst=l1[0] {TENSOR} src=ddr[0] {TENSOR} set core:load>vector:0 @kernel=first",
    f"vector: relu dst=l1[2048] {TENSOR} src=l1[0] {TENSOR} wait core:load>vector:0 set core:vector>store:0 "
    "@kernel=first",
    f"store: store dst=ddr[2048] {TENSOR} src=l1[2048] {TENSOR} wait core:vector>store:0 set core:store>load:0 "
    "@kernel=first",
    f"load: load dst=l1[0] {TENSOR} src=ddr[2048] {TENSOR} wait core:store>load:0 set core:load>store:0 "
    "@kernel=second",
    f"store: store dst=ddr[4096] {TENSOR} src=l1[0] {TENSOR} wait core:load>store:0 @kernel=second",
)
TEXT = HEAD + "".join(f"c0.0 {line}\n" for line in ENTRIES)


def program(**info: object) -> Program:
    made = parse_program(TEXT)
    return dataclasses.replace(made, macs=1000, info=info)


def row(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "kind": "elementwise", "onnx_nodes": [name], **more}


def test_has_every_field_of_the_design() -> None:
    report = build_report(program())
    assert set(report) >= FIELDS
    assert all(set(layer) >= LAYER_FIELDS for layer in report["layers"])
    json.dumps(report)


def test_figures_of_the_whole() -> None:
    report = build_report(program(ideal_cycles=100.0, mac_cycles=10.0, model="m", batch=2, compile_s=1.5))
    assert (report["model"], report["batch"], report["compile_s"], report["target"]) == ("m", 2, 1.5, "npu-edge")
    assert report["ddr_bytes_read"] == report["ddr_bytes_written"] == 2 * 16 * 64 * 2
    assert report["efficiency"] == pytest.approx(100.0 / report["cycles"])
    assert report["mac_utilization"] == pytest.approx(10.0 / report["cycles"])
    assert report["time_ms"] == pytest.approx(report["cycles"] / 1e6)
    assert report["instructions"] == 5 and report["l1_peak_bytes"] == 4096 and report["llb_peak_bytes"] == 0
    assert report["opcodes"] == {"load": 2, "relu": 1, "store": 2}
    assert report["matrix_busy"] == 0 and 0 < report["vector_busy"] < 1


def test_figures_of_layers() -> None:
    report = build_report(program())
    first, second = report["layers"]
    assert first["cycles"] + second["cycles"] == pytest.approx(report["cycles"])
    assert first["element_ops"] == 1024 and second["element_ops"] == 0
    assert first["bytes"] == {"ddr_read": 2048, "ddr_written": 2048, "llb_read": 0, "llb_written": 0}
    assert (first["cores"], first["instructions"], second["instructions"]) == (1, 3, 2)
    assert first["bound_by"] == "ddr" and first["start"] == 0 and first["end"] <= second["end"] == report["cycles"]
    assert first["busy"]["load"] > 0 and first["busy"]["matrix"] == 0


def test_a_layer_is_the_sum_of_its_instances() -> None:
    """Two layers in turns, twice: each has its two stretches, not what lies between them."""
    lines = [line.replace("@kernel", f"@instance={n} @kernel") for n in range(2) for line in ENTRIES]
    report = build_report(parse_program(HEAD + "".join(f"c0.0 {line}\n" for line in lines)))
    first, second = report["layers"]
    assert first["cycles"] + second["cycles"] == pytest.approx(report["cycles"])
    assert (first["instructions"], second["instructions"]) == (6, 4)
    for layer in (first, second):
        assert 0 < layer["cycles"] < 0.9 * (layer["end"] - layer["start"])
        assert max(layer["busy"].values()) <= layer["running"] < 0.9 * (layer["end"] - layer["start"])
    once = build_report(program())["layers"][0]
    assert first["running"] == pytest.approx(2 * once["running"], rel=0.2)


def test_unknown_where_the_program_does_not_say() -> None:
    report = build_report(program())
    assert report["efficiency"] is None and report["macs_emitted_share"] is None and report["compile_s"] is None


@pytest.mark.parametrize(
    ("wanted", "folded", "share"), [(1024, 0, 1.0), (4096, 0, 0.25), (4096, 2048, 0.75), (512, 0, 1.0)]
)
def test_element_operations_emitted(wanted: int, folded: int, share: float) -> None:
    layers = [row("first", element_ops=wanted, folded_ops=folded), row("second")]
    assert build_report(program(layers=layers))["element_ops_emitted_share"] == pytest.approx(share)


def test_work_outside_layers_is_not_emitted() -> None:
    made = program(layers=[row("first", element_ops=1024), row("second")], outside={"macs": 10, "element_ops": 1024})
    report = build_report(made)
    assert report["element_ops_emitted_share"] == 0.5 and report["macs_emitted_share"] == 0.0


def test_a_group_of_layers_is_judged_together() -> None:
    layers = [row("first", group=1), row("second", element_ops=1024, group=1)]
    assert build_report(program(layers=layers))["element_ops_emitted_share"] == 1.0


@pytest.mark.parametrize(
    "layers",
    ["two", [1, 2], [row("first")], [row("a", macs=-1), row("b")], [row("a", group=7), row("b")],
     [row("a", element_ops="many"), row("b")], [row("a", host_step=3), row("b")]],
)  # fmt: skip
def test_facts_that_do_not_fit_are_refused(layers: object) -> None:
    with pytest.raises(UserError, match=r"\[report\] the program's layers do not fit it; compile the model again"):
        build_report(program(layers=layers))


def test_host_steps_are_named() -> None:
    place = Binding("x", 0, (4,), "float32")
    step = HostStep(0, "Unique", "u", (place,), (place,), 4, "its shape depends on values", b"")
    report = build_report(dataclasses.replace(program(), host_steps=(step,)))
    assert report["host_steps"] == [
        {"op": "Unique", "node": "u", "reason": "its shape depends on values", "segment": 0, "bytes_in": 16,
         "bytes_out": 16, "operations": 4}
    ]  # fmt: skip


def test_a_layer_on_the_host_takes_its_time() -> None:
    place = Binding("x", 0, (4,), "float32")
    step = HostStep(0, "Unique", "u", (place,), (place,), 4, "reason", b"")
    made = program(layers=[row("first", host_step=0), row("second")])
    report = build_report(dataclasses.replace(made, host_steps=(step,)))
    host = report["layers"][0]
    assert host["bound_by"] == "host" and host["start"] == 0
    assert host["cycles"] == pytest.approx(made.target.host.call_latency, rel=0.1)
    assert sum(layer["cycles"] for layer in report["layers"]) == pytest.approx(report["cycles"])


def text_of(shown: int, **info: object) -> str:
    stream = io.StringIO()
    print_report(build_report(program(**info)), Console(file=stream, width=200), shown)
    return stream.getvalue()


def test_text_shows_what_matters() -> None:
    text = text_of(0, ideal_cycles=100.0, model="m.onnx", batch=1, precision="float16")
    assert "m.onnx, batch 1, float16" in text and "npu-edge" in text and "host steps      none" in text
    assert "first" not in text


def test_text_shows_layers_longest_first_or_in_order() -> None:
    assert text_of(1).count("elementwise") == 0
    layers = [row("first"), row("second")]
    longest, both = text_of(1, layers=layers), text_of(-1, layers=layers)
    assert longest.count("elementwise") == 1
    assert both.index("first") < both.index("second")


def test_text_of_a_nameless_program() -> None:
    assert "unnamed, batch unknown" in text_of(0) and "unknown" in text_of(0)
