"""Order between kernels on several cores: what one call writes another may read only when all cores have written.

A barrier stands in the scalar queues, which nothing else uses: each waits, by flags of its core, for the loads and
stores of the calls before it, meets the others, and sets flags for the loads and stores that follow. So no DMA queue
stalls for a barrier that a later call needs, and calls that do not depend on each other overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dsa_compiler.assemble.calls import STREAM_ENTRY, AttrTable, KernelCall, Rows, stretch
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.program.tables import ENGINE_CODE, SCOPE_CODE
from dsa_compiler.target import Target

_LAST = np.iinfo(np.int64).max - 8
WAIT, MEET, SET = 0, 1, 2
"""The entries of a barrier in one core's scalar queue, in their order."""


def predecessors(calls: Sequence[KernelCall]) -> np.ndarray:
    """For each call the place of the last call that it must wait for, -1 without one in its segment."""
    result = np.full(len(calls), -1, np.int64)
    for place, call in enumerate(calls):
        before = place - 1 if call.after is None else call.after
        if before >= 0 and calls[before].segment == call.segment:
            result[place] = before
    return result


def barrier_rows(calls: Sequence[KernelCall], target: Target, attrs: AttrTable, group: int) -> np.ndarray:
    """Entries of the barriers that `calls` need, their groups from `group` on; none on a part with one core."""
    if target.cores == 1:
        return np.zeros(0, STREAM_ENTRY)
    needed: dict[int, set[int]] = {}
    every = set(range(target.clusters))
    for call, before in zip(calls, predecessors(calls).tolist(), strict=True):
        if before >= 0:
            mine = {p.cluster for p in call.clusters} if call.clusters and not call.chip_wide else every
            needed.setdefault(before, set()).update({-1} if mine == every and _wide(call, target) else mine)
    rows = []
    for before, clusters in sorted(needed.items()):
        for cluster in [-1] if -1 in clusters else sorted(clusters):
            rows.append(_barrier(calls[before], before, cluster, target, attrs, group))
            group += 1
    return np.concatenate(rows) if rows else np.zeros(0, STREAM_ENTRY)


def _wide(call: KernelCall, target: Target) -> bool:
    return target.clusters > 1 and (call.chip_wide or not call.clusters)


def _barrier(
    call: KernelCall, position: int, cluster: int, target: Target, attrs: AttrTable, group: int
) -> np.ndarray:
    """The barrier behind `call`: of one cluster, or of the chip if `cluster` is -1."""
    per = target.cores_per_cluster
    cores = np.arange(target.cores) if cluster < 0 else np.arange(cluster * per, (cluster + 1) * per)
    scope = "chip" if cluster < 0 else "cluster"
    rows = np.zeros(3 * len(cores), STREAM_ENTRY)
    kind = np.tile([WAIT, MEET, SET], len(cores))
    rows["opcode"] = np.array([OPCODES[n].code for n in ("wait", "barrier", "set")])[kind]
    rows["attrs"] = np.where(kind == MEET, attrs.intern({"scope": scope, "queues": ["scalar"]}), 0)
    rows["group"] = np.where(kind == MEET, group, -1)
    rows["engine"] = ENGINE_CODE["scalar"]
    rows["chip_core"] = np.repeat(cores, 3)
    rows["cluster"], rows["core"] = rows["chip_core"] // per, rows["chip_core"] % per
    rows["kernel"], rows["node"], rows["segment"], rows["call"] = call.number, call.node, call.segment, position
    rows["order"] = _LAST + kind
    rows["time"] = np.nextafter(stretch(call, position)[1], -np.inf)
    return rows


def gates(entries: np.ndarray, rows: Rows, calls: Sequence[KernelCall]) -> np.ndarray:
    """For each of the sorted `entries` the place of the barrier's last entry that it must wait for, or -1."""
    before = predecessors(calls)
    last = np.flatnonzero(entries["order"] == _LAST + SET)
    gate = np.full(len(entries), -1, np.int64)
    if not len(last):
        return gate
    key = entries["chip_core"][last].astype(np.int64) * len(calls) + entries["call"][last]
    order = np.argsort(key)
    key, last = key[order], last[order]
    shared = np.isin(rows.operands["scope"], [SCOPE_CODE["ddr"], SCOPE_CODE["llb"]]) & ~rows.constant
    total = np.concatenate([[0], np.cumsum(shared)])
    reaching = total[entries["operand"] + entries["operands"]] > total[entries["operand"]]
    reaching &= (entries["order"] < _LAST) & (before[entries["call"]] >= 0)
    mine = np.flatnonzero(reaching)
    wanted = entries["chip_core"][mine].astype(np.int64) * len(calls) + before[entries["call"][mine]]
    found = np.searchsorted(key, wanted)
    gate[mine] = last[np.minimum(found, len(last) - 1)]
    return gate


def collects(entries: np.ndarray) -> np.ndarray:
    """Which of the sorted entries wait for all earlier loads and stores of their core."""
    result: np.ndarray = entries["order"] == _LAST + WAIT
    return result


def idle(entries: np.ndarray, waits: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Entries of barriers that wait for nothing, or set nothing: they can go."""
    kind = entries["order"] - _LAST
    result: np.ndarray = ((kind == WAIT) & (waits == 0)) | ((kind == SET) & (sets == 0))
    return result
