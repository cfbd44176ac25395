"""The queues, flags and groups of a program as flat arrays, shared by the time, race and deadlock analyses.

Queues are numbered cluster by cluster: the six engines of core 0, of core 1, ..., then the cluster's prefetch
engine. That order also breaks ties.

Barriers
--------
A `barrier` entry has the attributes `scope` ("cluster" or "chip", default "cluster") and `queues`, a list of
names ``[cluster:C:][core:N:]ENGINE``; a part left out means all of them within the scope: in scope "cluster"
``"core:0:load"`` is one queue, ``"vector"`` is the vector queue of every core, ``"prefetch"`` the cluster's
prefetch queue; in scope "chip" ``"cluster:1:prefetch"`` is one queue and ``"prefetch"`` one in each cluster.
Each named queue holds exactly one entry of the barrier's `group`. Without `queues` the members are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.program.tables import ENGINE_CODE, FLAG_KINDS, Program
from dsa_compiler.target import CORE_ENGINES, ENGINES, Target

PLAIN, SET, WAIT, BARRIER, HALT = range(5)
"""Kinds of entries."""

_CONTROL = {"set": SET, "wait": WAIT, "barrier": BARRIER, "halt": HALT}
_PREFETCH = ENGINE_CODE["prefetch"]
_PER_CORE = len(CORE_ENGINES)


def queues_per_cluster(target: Target) -> int:
    """Queues of one cluster: six a core and, always counted, one of prefetch."""
    return target.cores_per_cluster * _PER_CORE + 1


def queue_name(target: Target, queue: int) -> str:
    """The queue in words: ``cluster 0 core 3 load`` or ``cluster 0 prefetch``."""
    cluster, place = divmod(queue, queues_per_cluster(target))
    core, engine = divmod(place, _PER_CORE)
    if core == target.cores_per_cluster:
        return f"cluster {cluster} prefetch"
    return f"cluster {cluster} core {core} {CORE_ENGINES[engine]}"


@dataclass(frozen=True)
class FlagSpace:
    """Numbering of all flags of a part: core flags, then cluster flags, then chip flags."""

    target: Target

    @property
    def cluster_base(self) -> int:
        """Number of the first cluster flag."""
        return self.target.cores * _PER_CORE * _PER_CORE * self.target.sync.flags

    @property
    def chip_base(self) -> int:
        """Number of the first chip flag."""
        return self.cluster_base + self.target.clusters * self.target.sync.cluster_flags

    @property
    def size(self) -> int:
        """Flags of the whole part."""
        return self.chip_base + self.target.sync.chip_flags

    def name(self, flag: int) -> str:
        """The flag as a listing writes it, with its core or cluster."""
        sync = self.target.sync
        if flag >= self.chip_base:
            return f"chip:{flag - self.chip_base}"
        if flag >= self.cluster_base:
            cluster, number = divmod(flag - self.cluster_base, sync.cluster_flags)
            return f"cluster:{number} of cluster {cluster}"
        rest, number = divmod(flag, sync.flags)
        rest, waiter = divmod(rest, _PER_CORE)
        core, setter = divmod(rest, _PER_CORE)
        cluster, local = divmod(core, self.target.cores_per_cluster)
        return f"core:{CORE_ENGINES[setter]}>{CORE_ENGINES[waiter]}:{number} of cluster {cluster} core {local}"

    def waiter(self) -> np.ndarray:
        """For each flag the queue that waits for it (core flags), or -1 - the cluster, or -1 - clusters (chip)."""
        sync, target = self.target.sync, self.target
        core = np.arange(target.cores)
        base = core // target.cores_per_cluster * queues_per_cluster(target)
        base = base + core % target.cores_per_cluster * _PER_CORE
        waits = base[:, None, None, None] + np.arange(_PER_CORE)[None, None, :, None]
        waits = np.broadcast_to(waits, (target.cores, _PER_CORE, _PER_CORE, sync.flags)).ravel()
        clusters = -1 - np.repeat(np.arange(target.clusters), sync.cluster_flags)
        chip = np.full(sync.chip_flags, -1 - target.clusters)
        return np.concatenate([waits, clusters, chip]).astype(np.int64)


@dataclass(frozen=True)
class Queues:
    """A program's entries by queue.

    queue[e]: queue of entry e; kind[e]: PLAIN .. HALT; group[e]: dense group number or -1;
    order: entries sorted by queue, queue order kept; first[q] .. first[q + 1] are queue q's places in it;
    members, member_first: entries of each group, by queue; flag[r]: number of the flag of row r of the flag table
    as used by its entry; segments: the segment numbers in use, ascending, with host steps' own.
    """

    target: Target
    queue: np.ndarray
    kind: np.ndarray
    group: np.ndarray
    order: np.ndarray
    first: np.ndarray
    members: np.ndarray
    member_first: np.ndarray
    flag: np.ndarray
    segments: tuple[int, ...]


def build_queues(program: Program) -> Queues:
    """Sort a program's entries by queue and number its flags and groups.

    Raises `UserError` for a queue, engine or flag that the part lacks, a group with two entries in one
    queue, entries out of segment order, entries after a halt, and barriers that name absent queues.
    """
    target, entries = program.target, program.entries
    _check_place(program)
    queue = entry_queues(target, entries)
    kind = _kinds(entries["opcode"])
    order = np.argsort(queue, kind="stable")
    count = target.clusters * queues_per_cluster(target)
    first = np.searchsorted(queue[order], np.arange(count + 1)).astype(np.int64)
    group, members, member_first = _groups(target, entries, queue, kind)
    _check_segments(target, entries["segment"], queue, order)
    _check_halts(target, entries["segment"], queue, order, kind)
    segments = {int(s) for s in np.unique(entries["segment"])} | {h.segment for h in program.host_steps}
    queues = Queues(
        target, queue, kind, group, order, first, members, member_first, _flag_numbers(program), tuple(sorted(segments))
    )
    _check_barriers(program, queues)
    return queues


def entry_queues(target: Target, entries: np.ndarray) -> np.ndarray:
    """Queue number of each entry."""
    cluster, core = entries["cluster"].astype(np.int64), entries["core"].astype(np.int64)
    engine = entries["engine"].astype(np.int64)
    place = np.where(engine == _PREFETCH, target.cores_per_cluster * _PER_CORE, core * _PER_CORE + engine)
    return cluster * queues_per_cluster(target) + place


def _check_place(program: Program) -> None:
    target, entries = program.target, program.entries
    is_prefetch = entries["engine"] == _PREFETCH
    bad = (entries["cluster"] < 0) | (entries["cluster"] >= target.clusters) | (entries["engine"] >= len(ENGINES))
    bad |= ~is_prefetch & ((entries["core"] < 0) | (entries["core"] >= target.cores_per_cluster))
    bad |= is_prefetch & (target.engine.prefetch is None)
    if bad.any():
        index = int(np.argmax(bad))
        row = entries[index]
        engine = ENGINES[row["engine"]] if row["engine"] < len(ENGINES) else str(row["engine"])
        raise UserError(
            f"entry {index} is in the queue of cluster {row['cluster']} core {row['core']} {engine}, "
            f"which {target.name} does not have",
            where="simulator",
            action="use the part's own clusters, cores and engines",
        )


def _kinds(opcode: np.ndarray) -> np.ndarray:
    kind = np.zeros(len(opcode), np.int64)
    for name, value in _CONTROL.items():
        kind[opcode == OPCODES[name].code] = value
    return kind


def _groups(
    target: Target, entries: np.ndarray, queue: np.ndarray, kind: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dense group numbers; members sorted by group, then queue; a barrier without a group is one of its own."""
    raw = entries["group"].astype(np.int64)
    lone = (kind == BARRIER) & (raw < 0)
    raw[lone] = raw.max(initial=-1) + 1 + np.arange(int(lone.sum()))
    grouped = np.flatnonzero(raw >= 0)
    numbers, dense = np.unique(raw[grouped], return_inverse=True)
    group = np.full(len(entries), -1, np.int64)
    group[grouped] = dense
    sort = np.lexsort((queue[grouped], dense))
    members = grouped[sort]
    twice = (np.diff(group[members]) == 0) & (np.diff(queue[members]) == 0)
    if twice.any():
        entry = int(members[1:][twice][0])
        raise UserError(
            f"group {raw[entry]} has two entries in the queue of {queue_name(target, int(queue[entry]))}, "
            f"one of them {entry}",
            where="simulator",
            action="give each multicast and barrier a group of its own",
        )
    member_first = np.searchsorted(group[members], np.arange(len(numbers) + 1)).astype(np.int64)
    return group, members, member_first


def _flag_numbers(program: Program) -> np.ndarray:
    """Number of the flag that each row of the flag table means for the entry that uses it, -1 if none does."""
    entries, flags, target = program.entries, program.flags, program.target
    space = FlagSpace(target)
    number = np.full(len(flags), -1, np.int64)
    for start, count in (("wait", "waits"), ("set", "sets")):
        counts = entries[count].astype(np.int64)
        owner = np.repeat(np.arange(len(entries)), counts)
        inside = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(entries[start], counts) + inside
        number[rows] = _flag_of(space, flags[rows], entries, owner)
    return number


def _flag_of(space: FlagSpace, flags: np.ndarray, entries: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Numbers of the flags of entries `owner`, one each."""
    target, sync = space.target, space.target.sync
    kind, number = flags["kind"], flags["number"].astype(np.int64)
    prefetches = (entries["engine"] == _PREFETCH)[owner]
    limit = np.select([kind == i for i in range(3)], [sync.flags, sync.cluster_flags, sync.chip_flags], 0)
    is_core = kind == FLAG_KINDS.index("core")
    bad = (number < 0) | (number >= limit) | (is_core & prefetches)
    bad |= is_core & ((flags["source"] >= _PER_CORE) | (flags["target"] >= _PER_CORE))
    if bad.any():
        index = int(np.argmax(bad))
        name = FLAG_KINDS[kind[index]] if kind[index] < len(FLAG_KINDS) else "unknown"
        raise UserError(
            f"entry {owner[index]} uses {name} flag {number[index]}, which its queue does not have",
            where="simulator",
            action=f"{target.name} has {sync.flags}, {sync.cluster_flags} and {sync.chip_flags} flags by level",
        )
    cluster = entries["cluster"].astype(np.int64)
    core = (cluster * target.cores_per_cluster + entries["core"])[owner]
    cluster = cluster[owner]
    pair = (core * _PER_CORE + flags["source"]) * _PER_CORE + flags["target"]
    return np.select(
        [is_core, kind == FLAG_KINDS.index("cluster")],
        [pair * sync.flags + number, space.cluster_base + cluster * sync.cluster_flags + number],
        space.chip_base + number,
    )


def _check_segments(target: Target, segment: np.ndarray, queue: np.ndarray, order: np.ndarray) -> None:
    back = (np.diff(segment[order]) < 0) & (np.diff(queue[order]) == 0)
    if back.any():
        entry = int(order[1:][back][0])
        raise UserError(
            f"entry {entry} of segment {segment[entry]} follows a later segment in the queue of "
            f"{queue_name(target, int(queue[entry]))}",
            where="simulator",
            action="order each queue by segment",
        )


def _check_halts(target: Target, segment: np.ndarray, queue: np.ndarray, order: np.ndarray, kind: np.ndarray) -> None:
    same = (np.diff(segment[order]) == 0) & (np.diff(queue[order]) == 0)
    after = same & (kind[order][:-1] == HALT)
    if after.any():
        entry = int(order[1:][after][0])
        raise UserError(
            f"entry {entry} follows a halt in the queue of {queue_name(target, int(queue[entry]))}",
            where="simulator",
            action="make halt the last entry of a queue's segment",
        )


def named_queues(target: Target, cluster: int, scope: str, names: Iterable[str]) -> frozenset[int]:
    """The queues that a barrier's `queues` attribute names, seen from `cluster`.

    Raises `UserError` for a name of another form or a queue that the part lacks.
    """
    clusters = range(target.clusters) if scope == "chip" else (cluster,)
    return frozenset(q for name in names for q in _matching_queues(target, clusters, name))


def _matching_queues(target: Target, clusters: Sequence[int], name: str) -> Iterable[int]:
    parts = name.split(":")
    fields = dict(zip(parts[:-1:2], parts[1:-1:2], strict=False))
    well_formed = len(parts) % 2 == 1 and set(fields) <= {"cluster", "core"} and parts[-1] in ENGINES
    if not well_formed or not all(v.isdecimal() for v in fields.values()):
        raise UserError(
            f"a barrier names the queue {name!r}",
            where="simulator",
            action="write [cluster:C:][core:N:]ENGINE",
        )
    chosen = [c for c in clusters if "cluster" not in fields or c == int(fields["cluster"])]
    cores = [c for c in range(target.cores_per_cluster) if "core" not in fields or c == int(fields["core"])]
    if not chosen or not cores:
        raise UserError(f"a barrier names the queue {name!r}, which is not in its scope", where="simulator")
    step = queues_per_cluster(target)
    if parts[-1] == "prefetch":
        return [c * step + target.cores_per_cluster * _PER_CORE for c in chosen]
    return [c * step + k * _PER_CORE + ENGINE_CODE[parts[-1]] for c in chosen for k in cores]


def segment_ends(segment_of: np.ndarray, first: np.ndarray, segment: int) -> np.ndarray:
    """For each queue the place in `order` after its last entry of `segment` or an earlier one."""
    upto: np.ndarray = np.concatenate([[0], np.cumsum(segment_of <= segment)])
    return np.asarray(first[:-1] + upto[first[1:]] - upto[first[:-1]])


def _check_barriers(program: Program, queues: Queues) -> None:
    """Each queue that a barrier names holds one of its entries, and no other queue does."""
    entries = program.entries
    barriers = np.flatnonzero(queues.kind == BARRIER)
    keys = np.stack([queues.group[barriers], entries["attrs"][barriers], entries["cluster"][barriers]], 1)
    _, firsts = np.unique(keys, axis=0, return_index=True)
    wanted_by: dict[tuple[int, int], frozenset[int]] = {}
    for entry in barriers[firsts]:
        key = int(entries["attrs"][entry]), int(entries["cluster"][entry])
        attrs = program.attrs[key[0]]
        scope = barrier_scope(attrs)
        if attrs.get("queues") is None:
            continue
        if key not in wanted_by:
            wanted_by[key] = named_queues(queues.target, key[1], scope, attrs["queues"])
        group = queues.group[entry]
        members = queues.members[queues.member_first[group] : queues.member_first[group + 1]]
        odd = wanted_by[key] ^ frozenset(int(q) for q in queues.queue[members])
        if odd:
            missing = min(odd) in wanted_by[key]
            verb = "names a queue that has no entry of it" if missing else "has an entry in a queue it does not name"
            raise UserError(
                f"the barrier of entry {entry} {verb}: {queue_name(queues.target, min(odd))}",
                where="simulator",
                action="put one entry of the barrier's group into each queue that it names",
            )


def barrier_scope(attrs: Mapping[str, Any]) -> str:
    """Either "cluster" or "chip"; raises `UserError` for another scope."""
    scope = str(attrs.get("scope", "cluster"))
    if scope not in ("cluster", "chip"):
        raise UserError(f"a barrier has the scope {scope!r}", where="simulator", action="use cluster or chip")
    return scope
