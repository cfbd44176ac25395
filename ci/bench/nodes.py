"""The node tests of the onnx package, through the front end and the graph passes, without kernels."""

from __future__ import annotations

import os
import signal
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import ml_dtypes
import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from ci.bench.figures import Figure, Findings
from dsa_compiler.errors import DsacError, UserError
from dsa_compiler.frontend import load_model
from dsa_compiler.graph import evaluate
from dsa_compiler.graph.build import build_graph
from dsa_compiler.lower.lower import lacking

SECONDS = 60
MOST_BOUND = 4096  # elements of an input that becomes a constant: shapes, axes, counts, sizes
RANDOM = frozenset({"Bernoulli", "Dropout", "Multinomial"})
"""Operators whose results chance decides: nothing can be compared. A dropout that is left is one in training."""

OUTCOMES = ("right", "on the host", "wrong", "refused", "error")
"""Right on the NPU; right with a host step; other values; a `UserError`; anything else."""


def measure(chosen: tuple[str, ...], every: bool) -> Findings:
    """Outcomes by operator; the figures are how many are wrong or end in an error, and how many are right.

    A test whose shapes depend on the values of inputs is run again with its inputs of integers as constants.
    """
    warnings.simplefilter("ignore")
    found = Findings("ONNX's node tests", ("operator", *OUTCOMES))
    table: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    for case in collect_testcases(None):
        if chosen and not any(name in case.name for name in chosen):
            continue
        outcome, text = _in_a_process(lambda case=case: run_case(case))
        operator = case.model.graph.node[0].op_type
        table[operator][outcome] += 1
        if outcome != "right":
            reasons[f"{outcome}: {text}"] += 1
            if every:
                click.echo(f"{case.name}: {outcome}: {text}", err=True)
    for operator, counts in sorted(table.items(), key=lambda item: item[0]):
        found.rows.append((operator, *(counts[outcome] for outcome in OUTCOMES)))
    totals = sum(table.values(), Counter())
    found.rows.append(("all", *(totals[outcome] for outcome in OUTCOMES)))
    found.figures.append(Figure("wrong", totals["wrong"], 0, at_least=False))
    found.figures.append(Figure("errors", totals["error"], 0, at_least=False))
    found.notes += [f"{count} x {text}" for text, count in reasons.most_common(40)]
    return found


def run_case(case: Any) -> tuple[str, str]:
    """The outcome of one test and why it is not right."""
    try:
        worst = ("right", "")
        for inputs, outputs in case.data_sets:
            outcome = _run_set(case.model, _arrays(inputs), _arrays(outputs), case.rtol, case.atol)
            worst = max(worst, outcome, key=lambda o: OUTCOMES.index(o[0]))
        return worst
    except UserError as error:
        return "refused", error.problem.splitlines()[0][:150]
    except DsacError as error:
        return "error", str(error)[:150]


def _arrays(values: list[Any]) -> list[Any]:
    """Tensors as arrays; sequences and what is absent stay."""
    return [numpy_helper.to_array(v) if isinstance(v, TensorProto) else v for v in values]


def _run_set(model: ModelProto, inputs: list[Any], outputs: list[Any], rtol: float, atol: float) -> tuple[str, str]:
    feeds = dict(zip((i.name for i in model.graph.input), inputs, strict=False))
    shapes = {n: v.shape for n, v in feeds.items() if isinstance(v, np.ndarray)}
    try:
        loaded = load_model(model, shapes)
        graph = build_graph(loaded, None, lacking)
    except UserError:
        bound = {n: v for n, v in feeds.items() if isinstance(v, np.ndarray) and _is_bound(v)}
        if not bound:
            raise
        loaded = load_model(model, {n: s for n, s in shapes.items() if n not in bound}, values=bound)
        graph = build_graph(loaded, None, lacking)
    got = evaluate(graph, {i.name: feeds[i.name] for i in loaded.graph.input})
    chance = any(n.op_type in RANDOM or n.op_type.startswith("Random") for n in loaded.graph.node)
    for info, want in zip(model.graph.output, outputs, strict=True):
        problem = _difference(got[info.name], got[info.name] if chance else want, rtol, atol)
        if problem:
            return "wrong", problem
    hosts = {layer.calls[0].attrs["reason"] for layer in graph.layers if layer.kind == "host"}
    return ("on the host", "; ".join(sorted(hosts))[:150]) if hosts else ("right", "")


def _is_bound(value: np.ndarray) -> bool:
    return value.size <= MOST_BOUND and (value.dtype.kind in "iub" or value.size <= 8)


def _difference(got: np.ndarray, want: Any, rtol: float, atol: float) -> str:
    want = np.asarray(want)
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{list(got.shape)} for {want.dtype}{list(want.shape)}"
    if want.dtype.kind not in "biufV":
        return "" if np.array_equal(got, want) else "other values"
    ulp = _step(want.dtype)
    near = np.allclose(got.astype(np.float64), want.astype(np.float64), rtol=max(rtol, 1e-3, 4 * ulp),
                       atol=max(atol, ulp), equal_nan=True)  # fmt: skip
    return "" if near else "other values"


def _step(dtype: np.dtype[Any]) -> float:
    """The distance from 1 to the next number; 0 for integers, which may be of two or four bits."""
    try:
        return float(ml_dtypes.finfo(dtype).eps) if dtype.kind in "fV" else 0.0
    except ValueError:
        return 0.0


def _in_a_process(run: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """The outcome of `run` in a process of its own, so that neither a crash nor a loop ends the others."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with _silent(reader):
            signal.alarm(SECONDS)
            try:
                outcome = run()
            except Exception as error:  # whatever escapes is what this looks for
                outcome = ("error", f"{type(error).__name__}: {str(error).strip()[-120:]}")
            os.write(writer, "\n".join(outcome).encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        lines = stream.read().decode(errors="replace").partition("\n")
    os.waitpid(child, 0)
    return (lines[0], lines[2].replace("\n", " ")) if lines[0] in OUTCOMES else ("error", "it crashed or did not end")


@contextmanager
def _silent(reader: int) -> Iterator[None]:
    """Close what a child does not need and let TVM print to nowhere."""
    os.close(reader)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    yield
