"""Join loads of the same bytes by several cores into multicasts.

Cores execute one kernel in step, so equal loads stand at the same place of their streams; a multicast reads
the memory once. The order of groups is the same in every queue, hence no two groups can wait for each other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dsa_compiler.assemble.trace import Trace
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.target import Target

_MULTICAST = {"load": "load_multicast", "load_pad": "load_pad_multicast"}


def form_multicasts(trace: Trace, target: Target) -> Trace:
    """`trace` with equal ddr loads of several cores as multicasts, where `target` has them."""
    if not target.features.multicast or len(trace.cores) < 2:
        return trace
    entries = trace.entries.copy()
    group = 0
    for single, multiple in _MULTICAST.items():
        rows = np.flatnonzero(entries["opcode"] == OPCODES[single].code)
        rows = rows[_reads_ddr(trace, rows)]
        if not len(rows):
            continue
        _, inverse, count = np.unique(_signature(trace, rows), axis=0, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(-1)
        shared = count[inverse] > 1
        entries["opcode"][rows[shared]] = OPCODES[multiple].code
        entries["group"][rows[shared]] = group + inverse[shared]
        group += len(count)
    return replace(trace, entries=entries)


def _reads_ddr(trace: Trace, rows: np.ndarray) -> np.ndarray:
    in_ddr = np.array([b.scope == "ddr" for b in trace.buffers])
    return in_ddr[trace.operands["buffer"][trace.entries["operand"][rows] + 1]]


def _signature(trace: Trace, rows: np.ndarray) -> np.ndarray:
    """What must agree, one row of integers an entry: place in the stream, source, attributes, shapes."""
    entry = trace.entries[rows]
    dst, src = trace.operands[entry["operand"]], trace.operands[entry["operand"] + 1]
    columns = [entry["key"], entry["attrs"], src["buffer"], src["slot"], src["offset"], src["rank"], dst["rank"]]
    arrays = [src["extents"], src["strides"], dst["extents"], dst["strides"]]
    return np.concatenate([np.stack([c.astype(np.int64) for c in columns], axis=1), *arrays], axis=1)
