"""The command `dsac`. Exit status: 0 fine, 1 a result is wrong, 2 bad usage or input."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import dsa_compiler as dsac
from dsa_compiler.options import EMISSION_PASSES, GRAPH_SCHEDULES, PRECISIONS, CompileOptions, Precision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dsa_compiler.runtime.executable import Executable

WRONG, BAD_INPUT = 1, 2
_DEFECT = "This is a defect of dsac; please report it with the model."

Arrays = dict[str, np.ndarray]


class _Group(click.Group):
    """Shows a `UserError` as its message, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except dsac.UserError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(BAD_INPUT)
        except dsac.DsacError as error:
            click.echo(f"error: {error}\n{_DEFECT}", err=True)
            ctx.exit(WRONG)
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError):
            raise  # click shows these, a broken pipe included
        except Exception as error:
            if os.environ.get("DSAC_TRACEBACK"):
                raise
            lines = [line for line in str(error).strip().splitlines() if line.strip()]
            text = f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
            click.echo(f"error: {text}\n{_DEFECT} DSAC_TRACEBACK=1 shows where it is.", err=True)
            ctx.exit(WRONG)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dsac.__version__, prog_name="dsac")
def main() -> None:
    """Compile ONNX models for scratchpad NPUs, run them on the simulator, and look into both."""


def _pairs(what: str, convert: Callable[[str], Any]) -> Callable[..., tuple[tuple[str, Any], ...]]:
    """A callback that reads NAME=VALUE texts; `what` says what a value is."""

    def read(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
        return tuple(_pair(value, what, convert, ctx, param) for value in values)

    return read


def _pair(
    value: str, what: str, convert: Callable[[str], Any], ctx: click.Context, param: click.Parameter
) -> tuple[str, Any]:
    name, equals, text = value.rpartition("=")
    if not equals or not name:
        raise click.BadParameter(f"{value!r} is not NAME=VALUE", ctx, param)
    try:
        return name, convert(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not {what}", ctx, param) from error


_SHAPES = _pairs("a list of extents such as 1,3,224,224", lambda text: tuple(int(n) for n in text.split(",")))
_FILES = _pairs("a file", Path)
_VALUES = _pairs("a number or a .npy file", lambda text: _read_value(text))

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_inputs_option = click.option("--input", "inputs", callback=_FILES, multiple=True, metavar="NAME=FILE.npy",
                              help="An input; repeat for several.")  # fmt: skip


def _compile_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `compile` and `verify` share."""
    for option in reversed((
        click.option("--target", default="npu-v1", show_default=True, help="A packaged part, or a TOML file."),
        click.option("--precision", type=click.Choice(PRECISIONS), help="By default as the model is."),
        click.option("--batch", type=click.IntRange(1), help="Binds symbolic leading dimensions."),
        click.option("--shape", "shapes", callback=_SHAPES, multiple=True, metavar="NAME=1,3,224,224",
                     help="Shape of an input; repeat for several."),
        click.option("--value", "values", callback=_VALUES, multiple=True, metavar="NAME=16000",
                     help="Make an input a constant, a number or a .npy file; repeat for several."),
        click.option("--graph-schedule", type=click.Choice(GRAPH_SCHEDULES), default="none", show_default=True),
        click.option("--schedule", "schedule_file", type=click.Path(path_type=Path),
                     help="Obey this layer schedule, as dsac schedule -o writes it."),
        click.option("--disable-pass", "disabled", type=click.Choice(EMISSION_PASSES), multiple=True,
                     help="Leave out an emission pass; repeat for several."),
        click.option("--dump-ir", type=click.Path(file_okay=False, path_type=Path),
                     help="Folder for the IR of every stage, numbered."),
    )):  # fmt: skip
        command = option(command)
    return command


def _options(
    precision: Precision | None,
    batch: int | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    values: tuple[tuple[str, np.ndarray], ...],
    graph_schedule: str,
    schedule_file: Path | None,
    disabled: tuple[str, ...],
    dump_ir: Path | None,
) -> CompileOptions:
    return CompileOptions(precision, batch, dict(shapes), graph_schedule, frozenset(disabled), dump_ir,
                          dict(values), schedule_file)  # fmt: skip


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A function that is told what comes next, and shows it on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: console.print(step, markup=False)
        return
    with console.status("starting") as status:
        yield lambda step: status.update(step)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1))


def _stdout() -> Console:
    console = Console(file=sys.stdout)
    return console if console.is_terminal else Console(file=sys.stdout, width=200)


@main.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The .npu file to write.")
@click.option("--report", "report_file", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the report there, as JSON.")  # fmt: skip
@click.option("--layers", default=10, show_default=True, help="Layers to show, longest first; -1 for all, in order.")
@_json_option
@_compile_options
def compile_command(
    model: Path, target: str, output: Path | None, report_file: Path | None, layers: int, as_json: bool, **chosen: Any
) -> None:
    """Compile MODEL, an ONNX file, and show what the program takes."""
    options = _options(**chosen)
    with _progress() as progress:
        executable = dsac.compile(model, target, options=options, progress=progress)
        progress("timing")
        report = executable.report
    if output is not None:
        executable.save(output)
    if report_file is not None:
        _write_text(report_file, json.dumps(report, indent=1) + "\n")
    _show_report(report, as_json, layers)


@main.command("schedule")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The JSON file to write.")
@_json_option
@_compile_options
def schedule_command(model: Path, target: str, output: Path | None, as_json: bool, **chosen: Any) -> None:
    """Show the layer schedule of MODEL, an ONNX file, or write it as a file to edit for --schedule."""
    from dsa_compiler.scheduling import plan_schedule

    options = _options(**chosen)
    with _progress() as progress:
        plan = plan_schedule(model, target, options, progress)
    if output is not None:
        _write_text(output, json.dumps(plan.plain(), indent=1) + "\n")
    if as_json:
        _print_json(plan.plain())
        return
    for line in plan.lines():
        click.echo(line)


@main.command("report")
@click.argument("program", type=click.Path(path_type=Path))
@click.option("--layers", default=10, show_default=True, help="Layers to show, longest first; -1 for all, in order.")
@_json_option
def report_command(program: Path, layers: int, as_json: bool) -> None:
    """Show what PROGRAM, a .npu file, takes."""
    with _progress() as progress:
        progress("timing")
        report = dsac.load(program).report
    _show_report(report, as_json, layers)


def _show_report(report: Mapping[str, Any], as_json: bool, layers: int) -> None:
    from dsa_compiler.report.text import print_report

    if as_json:
        _print_json(report)
    else:
        print_report(report, _stdout(), layers)


@main.command("run")
@click.argument("program", type=click.Path(path_type=Path))
@_inputs_option
@click.option("--random", "seed", type=int, help="Fill the inputs that are not given from this seed.")
@click.option("--output", "outputs", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the outputs, one .npy file each.")  # fmt: skip
@click.option("--race-seeds", default=0, help="Run again so many times with latencies stretched at random.")
@_json_option
def run_command(
    program: Path, inputs: tuple[tuple[str, Path], ...], seed: int | None, outputs: Path | None, race_seeds: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Run PROGRAM, a .npu file, on the simulator. Exits with 1 if a race changes a result."""
    executable = dsac.load(program)
    feeds = _read_inputs(executable, inputs, seed)
    with _progress() as progress:
        progress("running")
        result = executable.simulate(feeds)
        values = result.outputs or {}
        races = [_race(executable, feeds, values, n, progress) for n in range(race_seeds)]
    if outputs is not None:
        _write_outputs(outputs, values)
    summary = {
        "cycles": result.cycles, "time_ms": result.time_ms, "busy": result.busy, "overlap": result.overlap,
        "outputs": {n: {"shape": list(v.shape), "dtype": str(v.dtype)} for n, v in values.items()}, "races": races,
    }  # fmt: skip
    if as_json:
        _print_json(summary)
    else:
        _show_run(summary, values)
    if not all(race["same"] for race in races):
        raise SystemExit(WRONG)


def _race(
    executable: Executable, feeds: Arrays, values: Arrays, seed: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """One run in race mode: whether it gives the same bits, and how far its engines' work overlapped."""
    progress(f"race seed {seed}")
    result = executable.simulate(feeds, race_seed=seed, check=False)
    other = result.outputs or {}
    same = all(values[name].tobytes() == other[name].tobytes() for name in values)
    return {"seed": seed, "same": same, "overlap": result.overlap}


def _show_run(summary: Mapping[str, Any], values: Arrays) -> None:
    console = _stdout()
    console.print(f"{summary['cycles']:,.0f} cycles, {summary['time_ms']:.3f} ms, overlap {summary['overlap']:.2f}")
    for name, value in values.items():
        line = f"{name} {list(value.shape)} {value.dtype}"
        if value.size and value.dtype.kind in "fiu":
            line += f", {float(value.min()):.6g} to {float(value.max()):.6g}"
        console.print(line, markup=False, highlight=False)
    for race in summary["races"]:
        verdict = "the same bits" if race["same"] else "OTHER BITS: a race"
        console.print(f"race seed {race['seed']}: {verdict}, overlap {race['overlap']:.2f}")


def _read_inputs(executable: Executable, given: tuple[tuple[str, Path], ...], seed: int | None) -> Arrays:
    feeds = {name: _read_array(path) for name, path in given}
    if seed is not None:
        from dsa_compiler.verification import random_inputs

        feeds = {**random_inputs(executable.program.inputs, seed), **feeds}
    return feeds


def _read_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise dsac.UserError(f"cannot read it: {error.strerror}", where=str(path), action="give a .npy file") from error
    except (ValueError, EOFError) as error:
        raise dsac.UserError("it is no .npy file", where=str(path), action="write it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise dsac.UserError("it holds several arrays", where=str(path), action="give one .npy file for each input")
    return array


def _read_value(text: str) -> np.ndarray:
    """A number, or the array of a .npy file."""
    if text.endswith(".npy"):
        return _read_array(Path(text))
    try:
        return np.asarray(int(text))
    except ValueError:
        return np.asarray(float(text))


def _write_outputs(folder: Path, values: Arrays) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            np.save(folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.npy", value, allow_pickle=False)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> dsac.UserError:
    return dsac.UserError(f"cannot write it: {error.strerror}", where=str(path), action="choose another path")


@main.command("verify")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--levels", is_flag=True, help="Compare every level, not the program alone.")
@click.option("--nodes/--no-nodes", default=True, show_default=True, help="Compare every ONNX node too.")
@click.option("--node", metavar="NAME", help="Compare this ONNX node alone.")
@click.option("--tolerance", type=click.FloatRange(0), help="Greatest error relative to the largest value.")
@_inputs_option
@click.option("--seed", default=1, show_default=True, help="Fills the inputs that are not given.")
@_json_option
@_compile_options
def verify_command(
    model: Path, target: str, levels: bool, nodes: bool, node: str | None, tolerance: float | None,
    inputs: tuple[tuple[str, Path], ...], seed: int, as_json: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Compile MODEL, run it, and compare with ONNX Runtime or onnx.reference. Exits with 1 if they differ."""
    from dsa_compiler.node_verification import place_nodes, verify_nodes
    from dsa_compiler.report.verification import print_verification, verification_report
    from dsa_compiler.verification import TOLERANCES, Tolerance, program_precision, verify

    options = _options(**chosen)
    with _progress() as progress:
        executable = dsac.compile(model, target, options=options, progress=progress)
        feeds = _read_inputs(executable, inputs, seed)
        results = verify(executable, feeds, options.precision, every=levels, progress=progress)
        found = verify_nodes(executable, feeds, options, only=node, progress=progress) if nodes or node else []
    allowed = TOLERANCES[program_precision(executable.program)]
    if tolerance is not None:
        allowed = Tolerance(tolerance, allowed.cosine)
    report = verification_report(results, found, place_nodes(executable), allowed)
    if as_json:
        _print_json(report)
    else:
        print_verification(report, _stdout())
    if not all(row["pass"] for row in report["levels"]):
        raise SystemExit(WRONG)


@main.command("disasm")
@click.argument("program", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write there.")
@_json_option
def disasm_command(program: Path, output: Path | None, as_json: bool) -> None:
    """Print the instructions of PROGRAM, a .npu file, as assembler text, or as a listing with --json."""
    from dsa_compiler.program.assembler import assembly_lines
    from dsa_compiler.program.listing import listing_lines

    loaded = dsac.load(program).program
    lines = listing_lines(loaded) if as_json else (f"{line}\n" for line in assembly_lines(loaded))
    if output is None:
        sys.stdout.writelines(lines)
        return
    try:
        with output.open("w", encoding="utf-8") as stream:
            stream.writelines(lines)
    except OSError as error:
        raise _cannot_write(output, error) from error


@main.command("targets")
@click.argument("names", nargs=-1)
@_json_option
def targets_command(names: tuple[str, ...], as_json: bool) -> None:
    """Show the packaged parts, or those that NAMES are: parts or TOML files."""
    from dsa_compiler.target import load_target

    parts = [load_target(name) for name in names or dsac.list_targets()]
    if as_json:
        _print_json([dict(part.source) for part in parts])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("part", "clock", "cores", "float16 MACs/cycle", "l1", "llb", "ddr bytes/cycle"):
        table.add_column(column)
    for part in parts:
        table.add_row(
            part.name, f"{part.clock_ghz:g} GHz", f"{part.clusters} x {part.cores_per_cluster}",
            str(part.engine.matrix.macs_per_cycle("float16") * part.cores), _size(part.memory["l1"].size),
            _size(part.memory["llb"].size) if part.has_llb else "none", f"{part.memory['ddr'].bandwidth:g}",
        )  # fmt: skip
    _stdout().print(table)


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


@main.command("zoo")
@click.option("--set", "chosen", type=click.Choice(("graphturbo", "batch1")), default="graphturbo", show_default=True,
              help="Which networks.")  # fmt: skip
@click.option("--network", "networks", multiple=True, help="Only this network of the set; repeat.")
@click.option("--schedule", "schedules", type=click.Choice(GRAPH_SCHEDULES), multiple=True, default=("none", "llb"),
              show_default=True, help="How layers are scheduled; repeat for several.")  # fmt: skip
@click.option("--target", help="Another part, or a TOML file.")
@click.option("--batch", type=click.IntRange(1), help="Another batch, of all networks.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the results as JSON and Markdown.")  # fmt: skip
@_json_option
def zoo_command(
    chosen: str, networks: tuple[str, ...], schedules: tuple[str, ...], target: str | None, batch: int | None,
    output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Time standard networks with and without layer schedules, beside published figures."""
    from dsa_compiler.zoo import SETS, markdown, plain, record, run_set

    with _progress() as progress:
        outcomes = run_set(
            SETS[chosen], networks=networks, schedules=schedules, target=target, batch=batch, progress=progress
        )
    if output is not None:
        record(SETS[chosen], outcomes, output)
    if as_json:
        _print_json(plain(outcomes))
    else:
        click.echo(markdown(outcomes), nl=False)


@main.command("demo")
@click.option("--target", default="npu-v1", show_default=True, help="A packaged part, or a TOML file.")
@click.option("--small", is_flag=True, help="Two tiny networks, for a quick look.")
@_json_option
def demo_command(target: str, small: bool, as_json: bool) -> None:
    """Build a convolutional and a transformer network, compile, run and compare both. Exits with 1 if one is wrong."""
    import models
    from dsa_compiler.verification import TOLERANCES, verify

    rows = []
    for name in ("tiny_cnn", "tiny_transformer") if small else ("resnet18", "bert2"):
        with _progress() as progress:
            progress(f"building {name}")
            model = models.build(name)
            executable = dsac.compile(model, target, "float16", progress=progress)
            worst = max(
                verify(executable, models.sample_inputs(model, seed=1), "float16", progress=progress)[0].differences,
                key=lambda d: d.error,
            )
            rows.append({"name": name, "report": executable.report, "error": worst.error, "cosine": worst.cosine,
                         "pass": worst.within(TOLERANCES["float16"])})  # fmt: skip
    if as_json:
        _print_json(rows)
    else:
        _show_demo(rows)
    if not all(row["pass"] for row in rows):
        raise SystemExit(WRONG)


def _show_demo(rows: list[dict[str, Any]]) -> None:
    from dsa_compiler.report.text import print_report

    console = _stdout()
    for row in rows:
        print_report({**row["report"], "model": row["name"]}, console)
        verdict = "passes" if row["pass"] else "WRONG"
        console.print(f"against the reference: error {row['error']:.2e}, cosine {row['cosine']:.6f}: {verdict}\n")


if __name__ == "__main__":
    main()
