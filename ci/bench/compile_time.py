"""How long ResNet-50 takes to compile and to run, and the memory it needs, beside plain TVM's compile for the CPU."""

from __future__ import annotations

import os
import resource
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dsa_compiler as dsac
import models
from ci.bench.figures import Figure, Findings

COMPILE_S, RUN_S, RSS_GIB = 30.0, 10.0, 4.0


@dataclass
class Spent:
    """Seconds of a step by the wall clock and of this process's CPUs, and the peak of its memory after it."""

    wall: float = 0.0
    cpu: float = 0.0
    rss: float = 0.0


@contextmanager
def clock() -> Iterator[Spent]:
    """Measure what is done inside."""
    spent = Spent()
    wall, cpu = time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu
    spent.rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(network: str) -> Findings:
    """Compile, run in values and time, then compile by TVM alone, all in one process; imports count as compile."""
    found = Findings(
        f"{network}, float16, batch 1, npu-v1", ("step", "seconds", "CPU seconds", "peak memory so far, GiB")
    )
    model = models.build(network)
    feeds = models.sample_inputs(model)
    with clock() as compiling:
        executable = dsac.compile(model, "npu-v1", "float16")
    with clock() as first:
        executable.run(feeds)
    with clock() as again:
        executable.run(feeds)
    with clock() as plain:
        compile_by_tvm(model)
    for step, spent in (
        ("dsac.compile", compiling), ("run in values and time, first", first), ("run again", again),
        ("TVM: from_onnx and compile for llvm", plain),
    ):  # fmt: skip
        found.rows.append((step, spent.wall, spent.cpu, spent.rss))
    found.figures += [
        Figure("compile, s", compiling.wall, COMPILE_S, at_least=False),
        Figure("run in values and time, s", first.wall, RUN_S, at_least=False),
        Figure("peak memory, GiB", again.rss, RSS_GIB, at_least=False),
    ]
    found.notes.append(f"dsac's compile is {compiling.wall / plain.wall:.2f} times plain TVM's by the wall clock, "
                       f"{compiling.cpu / plain.cpu:.2f} times by CPU time.")  # fmt: skip
    found.notes.append(f"{len(executable.program):,} entries; load average at the end {os.getloadavg()[0]:.1f} on "
                       f"{os.cpu_count()} CPUs.")  # fmt: skip
    return found


def compile_by_tvm(model: object) -> None:
    """Import the model and compile it for the CPU as TVM does by default."""
    import tvm
    from tvm.relax.frontend.onnx import from_onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tvm.compile(from_onnx(model), target="llvm")
