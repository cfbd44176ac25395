"""Who may import whom (design, "Folders"), and what a saved model needs to run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dsa_compiler as dsac
import models

PACKAGE = Path(dsac.__file__).parent

ALLOWED = {
    "target": {"errors"},
    "isa": {"errors", "target"},
    "program": {"errors", "target", "isa"},
    "simulator": {"errors", "target", "isa", "program"},
    "bounds": {"errors", "target"},
    "report": {"errors", "target", "isa", "program", "simulator", "bounds"},
    "runtime": {"errors", "target", "isa", "program", "simulator", "report"},
    "frontend": {"errors"},
    "operators": {"errors"},
    "graph": {"errors", "frontend", "operators"},
    "lower": {"errors", "target", "isa", "graph", "operators"},
    "schedule": {"errors", "target", "isa", "graph", "operators", "lower"},
    "emit": {"errors", "target", "isa"},
    "assemble": {"errors", "target", "isa", "program", "graph", "lower", "emit"},
    "options": {"errors"},
    "errors": set(),
}
"""What each folder or module may import of this package; others (driver, compilation, ...) join them."""

WITHOUT_TVM = ("target", "isa", "program", "simulator", "bounds", "report", "runtime", "options", "errors", "cli")


def sources(place: str) -> list[Path]:
    folder = PACKAGE / place
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{place}.py"]


def imports(path: Path, functions: bool = True) -> Iterator[str]:
    """Modules that a file imports, at its head and, if `functions`, in functions; not those for types alone."""
    stack: list[ast.AST] = [ast.parse(path.read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if not functions and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        stack.extend(ast.iter_child_nodes(node))


def own(path: Path) -> set[str]:
    """Folders and modules of this package that a file imports."""
    names = [name.split(".") for name in imports(path)]
    return {name[1] if len(name) > 1 else "" for name in names if name[0] == "dsa_compiler"}


@pytest.mark.parametrize("place", sorted(ALLOWED))
def test_a_folder_imports_what_it_may(place: str) -> None:
    for path in sources(place):
        assert own(path) - {place} <= ALLOWED[place], path


def test_every_folder_has_a_rule() -> None:
    folders = {p.parent.relative_to(PACKAGE).parts[0] for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE}
    assert folders <= set(ALLOWED)


def test_nothing_imports_the_command() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert "cli" not in own(path), path


@pytest.mark.parametrize("place", WITHOUT_TVM)
def test_no_tvm_where_programs_are_run(place: str) -> None:
    """Not before a host step that was compiled from TIR runs: `simulator` imports it there."""
    for path in sources(place):
        names = {name.split(".")[0] for name in imports(path, functions=path.stem != "host")}
        assert not {"tvm", "tvm_ffi"} & names, path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model = models.build("tiny_cnn")
    dsac.compile(model, "npu-edge", "float16").save(folder / "model.npu")
    np.savez(folder / "inputs.npz", **models.sample_inputs(model))
    return folder


def python(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout


def test_a_saved_model_runs_without_tvm(saved: Path) -> None:
    out = python(
        "import sys; from pathlib import Path; import numpy as np; import dsa_compiler as dsac\n"
        "folder = Path(sys.argv[1])\n"
        "executable = dsac.load(folder / 'model.npu')\n"
        "outputs = executable.run(dict(np.load(folder / 'inputs.npz')))\n"
        "report = executable.report\n"
        "assert report['cycles'] > 0 and all(np.isfinite(v).all() for v in outputs.values())\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tvm', 'tvm_ffi', 'onnx', 'onnxruntime'}))\n",
        saved,
    )
    assert out.strip() == "[]"


def test_tvm_is_not_even_needed(saved: Path) -> None:
    """With `tvm` made impossible to import, the commands that take a program still work."""
    out = python(
        "import sys; sys.modules['tvm'] = sys.modules['tvm_ffi'] = None\n"
        "from dsa_compiler.cli import main\n"
        "main(['report', sys.argv[1] + '/model.npu', '--layers', '0'])\n",
        saved,
    )
    assert "npu-edge" in out
