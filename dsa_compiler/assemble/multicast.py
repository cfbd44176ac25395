"""Join loads of the same bytes by several cores into multicasts.

Cores execute one kernel in step, so equal loads stand at the same place of their streams; a multicast reads
the memory once. The order of groups is the same in every queue, hence no two groups can wait for each other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dsa_compiler.assemble.calls import MULTICAST_OF
from dsa_compiler.assemble.trace import Trace
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.target import Target


def form_multicasts(trace: Trace, target: Target) -> Trace:
    """`trace` with equal loads of several cores, from ddr or llb, as multicasts, where `target` has them."""
    if not target.features.multicast or len(trace.cores) < 2:
        return trace
    entries = trace.entries.copy()
    group = 0
    for single, multiple in MULTICAST_OF.items():
        rows = np.flatnonzero(entries["opcode"] == OPCODES[single].code)
        rows = rows[_reads_memory(trace, rows)]
        if not len(rows):
            continue
        _, inverse, count = np.unique(_signature(trace, rows, target), axis=0, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(-1)
        shared = count[inverse] > 1
        entries["opcode"][rows[shared]] = OPCODES[multiple].code
        entries["group"][rows[shared]] = group + inverse[shared]
        group += len(count)
    return replace(trace, entries=entries)


def _reads_memory(trace: Trace, rows: np.ndarray) -> np.ndarray:
    in_memory = np.array([b.scope in ("ddr", "llb") for b in trace.buffers])
    return in_memory[trace.operands["buffer"][trace.entries["operand"][rows] + 1]]


def _signature(trace: Trace, rows: np.ndarray, target: Target) -> np.ndarray:
    """What must agree, one row of integers an entry.

    An llb is that of the cluster: only its own cores may share a load from it.
    """
    entry = trace.entries[rows]
    dst, src = trace.operands[entry["operand"]], trace.operands[entry["operand"] + 1]
    in_ddr = np.array([b.scope == "ddr" for b in trace.buffers])[src["buffer"]]
    cluster = np.where(in_ddr, -1, entry["core"] // target.cores_per_cluster)
    place = [src["buffer"], src["slot"], src["offset"], src["rank"], dst["rank"]]
    columns = [cluster, entry["key"], entry["attrs"], *place]
    arrays = [src["extents"], src["strides"], dst["extents"], dst["strides"]]
    return np.concatenate([np.stack([c.astype(np.int64) for c in columns], axis=1), *arrays], axis=1)
