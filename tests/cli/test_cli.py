"""Each command of `dsac`: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import models
from dsa_compiler import cli, node_verification
from dsa_compiler.program.assembler import parse_program
from dsa_compiler.program.container import load, save


def dsac(*args: object) -> Result:
    """Run the command; a traceback is a failure of the test."""
    result = CliRunner().invoke(cli.main, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx, its inputs, and model.npu and report.json that `dsac compile` wrote."""
    path = tmp_path_factory.mktemp("cli")
    model = models.build("tiny_cnn")
    onnx.save(model, path / "model.onnx")
    ((name, value),) = models.sample_inputs(model).items()
    np.save(path / "x.npy", value)
    (path / "name").write_text(name)
    result = dsac("compile", path / "model.onnx", "-o", path / "model.npu", "--target", "npu-edge", "--precision",
                  "float16", "--report", path / "report.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    (path / "compile.txt").write_text(result.stdout)
    return path


def given(folder: Path) -> str:
    return f"{(folder / 'name').read_text()}={folder / 'x.npy'}"


def test_compile_shows_and_writes(folder: Path) -> None:
    text = (folder / "compile.txt").read_text()
    assert "model.onnx, batch 1, float16" in text and "conv2d" in text
    report = json.loads((folder / "report.json").read_text())
    assert report["target"] == "npu-edge" and report["instructions"] == len(load(folder / "model.npu"))


def test_compile_prints_json_and_progress(folder: Path) -> None:
    result = dsac("compile", folder / "model.onnx", "--target", "npu-edge", "--precision", "float16", "--json")
    assert json.loads(result.stdout)["cycles"] == json.loads((folder / "report.json").read_text())["cycles"]
    assert "reading the model" in result.stderr and "assembly" in result.stderr


def test_compile_dumps_every_stage(folder: Path, tmp_path: Path) -> None:
    assert dsac("compile", folder / "model.onnx", "--dump-ir", tmp_path / "ir").exit_code == 0
    names = [p.name for p in sorted((tmp_path / "ir").rglob("*")) if p.is_file()]
    assert any("level3" in n for n in names) and any("Emission" in n for n in names)


def test_compile_binds_shapes(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["a=b"], ["y"])], "g", [value("a=b", 1, ["n", "m"])], [value("y", 1, None)]
    )
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]),
              tmp_path / "m.onnx")  # fmt: skip
    result = dsac("compile", tmp_path / "m.onnx", "--shape", "a=b=3,40", "-o", tmp_path / "m.npu", "--json")
    assert result.exit_code == 0 and load(tmp_path / "m.npu").inputs[0].shape == (3, 40)
    result = dsac("compile", tmp_path / "m.onnx", "--shape", "other=1,2")
    assert result.exit_code == 2 and "no such input: ['other']" in result.stderr


def test_compile_makes_inputs_constant_and_tells_what_it_assumes(tmp_path: Path) -> None:
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [node("Gather", ["x", "i"], ["a"]), node("Mul", ["a", "k"], ["y"])], "g",
        [value("x", 1, ["n", "m"]), value("i", 7, []), value("k", 1, [3])], [value("y", 1, None)],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]),
              tmp_path / "m.onnx")  # fmt: skip
    np.save(tmp_path / "k.npy", np.float32([2, 3, 4]))
    given = ("compile", tmp_path / "m.onnx", "--value", "i=1", "--value", f"k={tmp_path / 'k.npy'}")
    result = dsac(*given, "--shape", "x=2,3", "-o", tmp_path / "m.npu")
    assert result.exit_code == 0, result.output
    program = load(tmp_path / "m.npu")
    assert [b.name for b in program.inputs] == ["x"]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(cli.dsac.load(tmp_path / "m.npu").run({"x": x})["y"], x[1] * [2, 3, 4])
    result = dsac("compile", tmp_path / "m.onnx", "--value", "i=1", "--value", "k=1.5")
    assert result.exit_code == 2 and "[value of k] it has shape [], the input [3]; give that shape" in result.stderr
    result = dsac("compile", tmp_path / "m.onnx", "--value", "i=one")
    assert result.exit_code == 2 and "'one' is not a number or a .npy file" in result.stderr
    result = dsac("compile", tmp_path / "m.onnx", "--value", "i=1", "--shape", "k=3")
    assert "input x: dimension 1 (m) by default: --shape x=1,128" in result.stderr


def test_report_of_a_program(folder: Path) -> None:
    result = dsac("report", folder / "model.npu", "--json")
    assert json.loads(result.stdout) == json.loads((folder / "report.json").read_text())
    text = dsac("report", folder / "model.npu", "--layers", "-1").stdout
    assert text.count("conv2d") == [row["kind"] for row in json.loads(result.stdout)["layers"]].count("conv2d")


def test_run_writes_outputs(folder: Path, tmp_path: Path) -> None:
    result = dsac("run", folder / "model.npu", "--input", given(folder), "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0
    ((name, output),) = json.loads(result.stdout)["outputs"].items()
    array = np.load(tmp_path / "out" / f"{name}.npy")
    assert list(array.shape) == output["shape"] and str(array.dtype) == output["dtype"]
    assert "[" in dsac("run", folder / "model.npu", "--input", given(folder)).stdout


def test_run_in_race_mode(folder: Path) -> None:
    result = dsac("run", folder / "model.npu", "--random", 1, "--race-seeds", 2)
    assert result.exit_code == 0 and result.stdout.count("the same bits") == 2


def test_run_finds_a_race(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of another result is told, and ends with 1."""
    honest = cli.dsac.load(folder / "model.npu")
    simulate = type(honest).simulate

    def racing(self, *args, race_seed=None, **options):  # type: ignore[no-untyped-def]
        result = simulate(self, *args, race_seed=race_seed, **options)
        if race_seed == 1:
            for value in result.outputs.values():
                value.reshape(-1).view(np.uint8)[0] ^= 1
        return result

    monkeypatch.setattr(type(honest), "simulate", racing)
    result = dsac("run", folder / "model.npu", "--random", 1, "--race-seeds", 2)
    assert result.exit_code == 1
    assert "race seed 0: the same bits" in result.stdout and "race seed 1: OTHER BITS: a race" in result.stdout


def test_verify_every_level(folder: Path) -> None:
    result = dsac("verify", folder / "model.onnx", "--target", "npu-edge", "--levels", "--input", given(folder))
    assert result.exit_code == 0, result.output
    for level in ("1 Relax as imported", "1 Relax, optimised", "2 layers", "5 program"):
        assert level in result.stdout
    assert "WRONG" not in result.stdout


def test_verify_ends_with_1_where_a_result_is_wrong(folder: Path) -> None:
    result = dsac("verify", folder / "model.onnx", "--target", "npu-edge", "--precision", "float16",
                  "--tolerance", "1e-9", "--json")  # fmt: skip
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout)["levels"]
    assert row["level"] == "5 program" and not row["pass"] and row["error"] > 1e-9


def test_verify_names_the_first_bad_node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose result is spoilt is named, by what it gives alone, before those that it spoils in turn."""
    model = onnx.load(folder / "model.onnx")
    spoilt = next(n for n in model.graph.node if n.op_type == "Relu")
    run = node_verification._run

    def spoiling(*args: object) -> dict[str, np.ndarray]:
        values = run(*args)
        return {name: value + 1 if name == spoilt.output[0] else value for name, value in values.items()}

    args = ("verify", folder / "model.onnx", "--target", "npu-edge", "--input", given(folder))
    good = dsac(*args)
    assert "no node is beyond the tolerance" in good.stdout and "on the CPU" in good.stdout
    monkeypatch.setattr(node_verification, "_run", spoiling)
    report = json.loads(dsac(*args, "--json").stdout)
    assert report["first_bad"] == spoilt.name
    assert {row["where"] for row in report["placement"]} <= {"npu", "none"}
    text = dsac(*args).stdout
    assert f"the first bad node is {spoilt.name}" in text and "WRONG" in text
    (row,) = json.loads(dsac(*args, "--json", "--node", spoilt.name).stdout)["nodes"]
    assert row["op"] == "Relu" and not row["alone"]["pass"] and row["alone"]["error"] > 0.01


def test_verify_without_nodes(folder: Path) -> None:
    args = ("verify", folder / "model.onnx", "--target", "npu-edge", "--input", given(folder))
    assert json.loads(dsac(*args, "--json", "--no-nodes").stdout)["nodes"] == []
    result = dsac(*args, "--node", "nowhere")
    assert result.exit_code == 2 and "there is no node 'nowhere'; name one of" in result.stderr


def test_disasm_reads_back(folder: Path, tmp_path: Path) -> None:
    program = load(folder / "model.npu")
    assert len(parse_program(dsac("disasm", folder / "model.npu").stdout)) == len(program)
    assert dsac("disasm", folder / "model.npu", "--json", "-o", tmp_path / "m.json").exit_code == 0
    listing = json.loads((tmp_path / "m.json").read_text())
    assert len(listing["instructions"]) == len(program) and listing["target"]["name"] == "npu-edge"


def test_targets() -> None:
    assert all(name in dsac("targets").stdout for name in ("npu-v1", "npu-v2", "npu-edge", "npu-bench"))
    (part,) = json.loads(dsac("targets", "npu-edge", "--json").stdout)
    assert part["name"] == "npu-edge" and "memory" in part


def test_demo() -> None:
    result = dsac("demo", "--small", "--target", "npu-edge")
    assert result.exit_code == 0 and result.stdout.count(": passes") == 2
    rows = json.loads(dsac("demo", "--small", "--json").stdout)
    assert [row["name"] for row in rows] == ["tiny_cnn", "tiny_transformer"] and all(row["pass"] for row in rows)


def test_help_names_every_command() -> None:
    text = dsac("--help").stdout
    assert all(name in text for name in cli.main.commands)
    assert "0.1.0" in dsac("--version").stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["compile", "{here}/none.onnx"], "error: [{here}/none.onnx] no such file; give the path of an ONNX file"),
        (["compile", "{here}/text"], "not an ONNX model, or truncated"),
        (["compile", "{here}/model.onnx", "--target", "npu-9"], "no part is called 'npu-9'; name one of npu-bench"),
        (["compile", "{here}/model.onnx", "--precision", "int3"], "'int3' is not one of 'float32', 'float16'"),
        (["compile", "{here}/model.onnx", "--disable-pass", "Magic"], "'Magic' is not one of"),
        (["compile", "{here}/model.onnx", "--batch", "0"], "0 is not in the range"),
        (["compile", "{here}/model.onnx", "--shape", "x=1,b"], "'1,b' is not a list of extents"),
        (["compile", "{here}/model.onnx", "--shape", "x"], "'x' is not NAME=VALUE"),
        (["compile", "{here}/model.onnx", "-o", "{here}/no/m.npu"], "cannot write {here}/no/m.npu"),
        (["compile", "{here}/model.onnx", "--report", "{here}/no/r.json"], "cannot write it: No such file"),
        (["run", "{here}/none.npu"], "cannot read it: No such file or directory; give a .npu file"),
        (["run", "{here}/text"], "not a whole .npu file"),
        (["run", "{here}/model.npu"], "the input '{name}' is missing; give an array for it"),
        (["run", "{here}/model.npu", "--input", "zz={here}/x.npy"], "the model has no input 'zz'"),
        (["run", "{here}/model.npu", "--input", "{name}={here}/none.npy"], "cannot read it: No such file"),
        (["run", "{here}/model.npu", "--input", "{name}={here}/text"], "it is no .npy file; write it with numpy.save"),
        (["run", "{here}/model.npu", "--input", "{name}={here}/two.npz"], "it holds several arrays; give one .npy"),
        (["run", "{here}/model.npu", "--random", "1", "--output", "{here}/text"], "Directory '{here}/text' is a file"),
        (["run", "{here}/model.npu", "--random", "1", "--output", "{here}/text/out"], "cannot write it: Not a dir"),
        (["report", "{here}/text"], "not a whole .npu file"),
        (["disasm", "{here}/none.npu"], "cannot read it"),
        (["disasm", "{here}/model.npu", "-o", "{here}/no/x"], "cannot write it: No such file"),
        (["targets", "npu-9"], "no part is called 'npu-9'"),
        (["verify", "{here}/none.onnx"], "no such file"),
        (["demo", "--target", "npu-9"], "no part is called 'npu-9'"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_bad_usage_and_input_end_with_2(folder: Path, args: list[str], message: str) -> None:
    (folder / "text").write_text("this is no model")
    np.savez(folder / "two.npz", a=1, b=2)
    name = (folder / "name").read_text()
    result = dsac(*(a.format(here=folder, name=name) for a in args))
    assert result.exit_code == 2
    assert message.format(here=folder, name=name) in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("kind", ["Infeasible", "InternalError"])
def test_a_defect_ends_with_1_and_without_a_traceback(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise cli.dsac.Infeasible("l1", 2, 1) if kind == "Infeasible" else cli.dsac.InternalError("broken")

    monkeypatch.setattr(cli.dsac, "compile", fail)
    result = dsac("compile", folder / "model.onnx")
    assert result.exit_code == 1 and "This is a defect of dsac" in result.stderr


def test_nothing_ends_with_a_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise KeyError("a pass of ours\nthe last line")

    monkeypatch.setattr(cli.dsac, "compile", fail)
    result = dsac("compile", folder / "model.onnx")
    assert result.exit_code == 1 and "DSAC_TRACEBACK=1 shows where it is" in result.stderr
    assert "error: KeyError: " in result.stderr and "Traceback" not in result.output
    monkeypatch.setenv("DSAC_TRACEBACK", "1")
    with pytest.raises(KeyError):
        dsac("compile", folder / "model.onnx")


def test_a_program_from_a_newer_version(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = load(folder / "model.npu")
    monkeypatch.setattr("dsa_compiler.program.container.VERSION", 99)
    save(program, tmp_path / "new.npu")
    monkeypatch.undo()
    result = dsac("report", tmp_path / "new.npu")
    assert result.exit_code == 2 and "it has format version 99" in result.stderr
