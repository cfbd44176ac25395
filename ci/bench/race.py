"""Race mode on compiled models: the same bits under stretched times, and programs that lack a flag are found out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import click
import numpy as np

import dsa_compiler as dsac
import models
from ci.bench.cases import part_one
from ci.bench.figures import Figure, Findings
from ci.bench.flag_removal import Arrays, caught_by, described, edges, same_bits, without
from ci.zoo_cases import case_inputs
from dsa_compiler.program.tables import Program
from dsa_compiler.simulator.machine import simulate

MODELS = (
    "iris_mlp_winml", "mnist_mlp_onnxmlir", "mnist-8", "cifar_cnn_winml", "tiny_cnn", "tiny_transformer",
    "cct_2_32_32_128_op20", "bert2", "ultraface_slim_320_simplified", "SqueezeNet_fp16",
)  # fmt: skip
CAUGHT = 0.95


@dataclass(frozen=True)
class Compiled:
    """A model's program, inputs and outputs."""

    name: str
    program: Program
    inputs: Arrays
    outputs: Arrays


def measure(seeds: int, trials: int, part: str) -> Findings:
    """Run each model under `seeds` seeds, and take flags away one at a time, `trials` over all models."""
    found = Findings(
        f"race mode, float16, {part}",
        (
            "model",
            "entries",
            "seeds",
            "with other bits",
            "busy engines at once",
            "flags",
            "flags removed",
            "caught",
            "by",
        ),
    )
    other, caught = 0, 0
    random = np.random.default_rng(0)
    for number, name in enumerate(MODELS):
        compiled = _compile(name, part)
        wrong, overlap = _other_bits(compiled, seeds)
        mine = trials // len(MODELS) + (number < trials % len(MODELS))
        ways, flags, missed = _remove_flags(compiled, mine, random)
        other += wrong
        caught += sum(ways.values())
        listed = ", ".join(f"{way} {count}" for way, count in ways.items())
        found.rows.append((name, len(compiled.program), seeds, wrong, overlap, flags, mine, sum(ways.values()), listed))
        found.notes += [f"not caught in {name}: {text}" for text in missed]
        click.echo(f"{name}: {wrong} of {seeds} seeds differ, {sum(ways.values())} of {mine} caught", err=True)
    found.figures.append(Figure(f"runs with other bits, of {seeds * len(MODELS)}", other, 0, at_least=False))
    found.figures.append(Figure("share of removed flags that is caught", caught / max(trials, 1), CAUGHT))
    return found


def _compile(name: str, part: str) -> Compiled:
    model = models.build(name) if name in models.names() else part_one(name)
    inputs = case_inputs(name, model)
    executable = dsac.compile(model, part, "float16")
    return Compiled(name, executable.program, inputs, executable.run(inputs))


def _other_bits(compiled: Compiled, seeds: int) -> tuple[int, float]:
    """Seeds under which the outputs differ, and how many engines are busy at once on average."""
    wrong, overlap = 0, []
    for seed in range(seeds):
        run = simulate(compiled.program, compiled.inputs, race_seed=seed, check=False)
        wrong += not same_bits(run.outputs or {}, compiled.outputs)
        overlap.append(run.overlap)
    return wrong, float(np.mean(overlap)) if overlap else float("nan")


def _remove_flags(compiled: Compiled, trials: int, random: np.random.Generator) -> tuple[Counter[str], int, list[str]]:
    """Ways in which removals were caught, flags that are in use, and the removals that were not caught."""
    used = edges(compiled.program)
    ways: Counter[str] = Counter()
    missed = []
    for choice in random.choice(len(used), min(trials, len(used)), replace=False):
        edge = used[int(choice)]
        way = caught_by(without(compiled.program, edge), compiled.inputs, compiled.outputs, seeds=3)
        if way:
            ways[way] += 1
        else:
            missed.append(described(compiled.program, edge))
    return ways, len(used), missed
