"""Which opcodes compiled models emit."""

from __future__ import annotations

from collections import Counter

import click

import dsa_compiler as dsac
import models
from ci.bench.cases import part_one
from ci.bench.figures import Figure, Findings
from ci.zoo_cases import FILES, QUANTIZED
from dsa_compiler.isa.table import OPCODES

WANTED = 60
LARGE = ("bert_base", "vit_b16", "densenet121", "dlrm", "conformer")
"""Generators that are only compiled on demand: they take long."""


def measure(chosen: tuple[str, ...], every: bool, cases: tuple[str, ...]) -> Findings:
    """Opcodes by model; the figure is how many differ over all of them. Set, wait, barrier and halt count as well."""
    generated = tuple(name for name in models.names() if every or name not in LARGE)
    found = Findings("opcodes emitted", ("model", "part", "precision", "entries", "opcodes", "seen here first"))
    seen: Counter[str] = Counter()
    for name in chosen or (*FILES, *QUANTIZED, *generated):
        for case in cases:
            part, _, precision = case.partition(":")
            model = models.build(name) if name in models.names() else part_one(name)
            try:
                executable = dsac.compile(model, part, precision or "float16")
                counts = executable.report["opcodes"]
            except dsac.DsacError as error:
                found.notes.append(f"{name} on {part}: {type(error).__name__}: {error}")
                continue
            new = sorted(set(counts) - set(seen))
            seen.update(counts)
            found.rows.append((name, part, precision, len(executable.program), len(counts), ", ".join(new)))
            click.echo(f"{name} {case}: {len(counts)}, {len(seen)} so far", err=True)
    found.figures.append(Figure("distinct opcodes", len(seen), WANTED))
    found.notes.append("Emitted: " + ", ".join(f"{name} {count:,}" for name, count in sorted(seen.items())))
    found.notes.append("Never emitted: " + ", ".join(sorted(set(OPCODES) - set(seen))))
    return found
