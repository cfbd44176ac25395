"""Rules on entries: references between tables, queues, features, flags, groups."""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dsa_compiler.errors import UserError
from dsa_compiler.isa.cost_tables import Tables
from dsa_compiler.isa.definition import ROLE_CODE
from dsa_compiler.isa.table import BY_CODE, TABLE
from dsa_compiler.target import CORE_ENGINES, ENGINES, SCOPES, Target

FLAG_KINDS = ("core", "cluster", "chip")
MOST_FLAGS = 4
_PREFETCH = ENGINES.index("prefetch")
_CODES = 65536


def name_of(program: Tables, entry: int) -> str:
    """An entry as messages call it."""
    definition = BY_CODE.get(int(program.entries["opcode"][entry]))
    return f"entry {entry} ({definition.name if definition else 'unknown'})"


def reject(program: Tables, bad: np.ndarray, problem: Callable[[int], str], action: str) -> None:
    """Raise `UserError` for the first entry where `bad` holds; `problem` words it from the entry's number."""
    if bad.any():
        entry = int(np.argmax(bad))
        raise UserError(f"{name_of(program, entry)}: {problem(entry)}", where="validate", action=action)


def _within(first: np.ndarray, count: np.ndarray, size: int) -> np.ndarray:
    """Whether a range of rows lies in a table (an empty one always does)."""
    return (count == 0) | ((first >= 0) & (first + count.astype(np.int64) <= size))


def check_tables(program: Tables) -> None:
    """Opcodes and references between tables."""
    entries = program.entries
    known = np.zeros(_CODES, np.bool_)
    known[[d.code for d in TABLE]] = True
    reject(program, ~known[entries["opcode"]], lambda e: f"opcode {entries['opcode'][e]} does not exist",
           "use an opcode of the table")  # fmt: skip
    attrs = entries["attrs"]
    reject(program, (attrs < 0) | (attrs >= len(program.attrs)),
           lambda e: f"attributes {attrs[e]} of {len(program.attrs)} do not exist", "correct the tables")  # fmt: skip
    ranges = (("operand", "operands", "operands"), ("wait", "waits", "flags"), ("set", "sets", "flags"))
    for first, count, table in ranges:
        size = len(getattr(program, table))
        bad = ~_within(entries[first], entries[count], size)
        reject(program, bad, lambda e, f=first, c=count, t=table, s=size:  # type: ignore[misc]
               f"{c} {entries[f][e]} to {entries[f][e] + int(entries[c][e]) - 1} lie outside the {s} {t}",
               "correct the tables")  # fmt: skip


def check_queues(program: Tables) -> None:
    """Engines, clusters and cores exist and an opcode stands in its engine's queue."""
    target, entries = program.target, program.entries
    engine, cluster, core = entries["engine"], entries["cluster"], entries["core"]
    reject(program, engine >= len(ENGINES), lambda e: f"engine {engine[e]} does not exist", "use one of the part's")
    own = np.full(_CODES, -1)
    for definition in TABLE:
        own[definition.code] = ENGINES.index(definition.engine) if definition.engine in ENGINES else -1
    wanted = own[entries["opcode"]]
    reject(program, (wanted >= 0) & (wanted != engine),
           lambda e: f"stands in the {ENGINES[engine[e]]} queue, but is a {ENGINES[wanted[e]]} instruction",
           "move it to its engine's queue")  # fmt: skip
    reject(program, (cluster < 0) | (cluster >= target.clusters),
           lambda e: f"cluster {cluster[e]} does not exist, {target.name} has {target.clusters}", "use fewer clusters")
    prefetch = engine == _PREFETCH
    reject(program, prefetch & (target.engine.prefetch is None),
           lambda e: f"{target.name} has no prefetch engine", "use the part's own engines")  # fmt: skip
    reject(program, prefetch & (core != -1), lambda e: f"core is {core[e]}: a prefetch engine belongs to a cluster",
           "write no core")  # fmt: skip
    reject(program, ~prefetch & ((core < 0) | (core >= target.cores_per_cluster)),
           lambda e: f"core {core[e]} does not exist, a cluster has {target.cores_per_cluster}", "use fewer cores")


def check_features(program: Tables) -> None:
    """The part has what its instructions need."""
    missing = np.zeros(_CODES, np.bool_)
    for definition in TABLE:
        missing[definition.code] = bool(definition.feature) and not getattr(program.target.features, definition.feature)
    code = program.entries["opcode"]
    reject(program, missing[code],
           lambda e: f"{program.target.name} lacks the feature {BY_CODE[int(code[e])].feature}",
           "use other instructions")  # fmt: skip


def flag_counts(target: Target) -> tuple[int, int, int]:
    """Flags of each kind, in the order of `FLAG_KINDS`."""
    return target.sync.flags, target.sync.cluster_flags, target.sync.chip_flags


def check_flags(program: Tables) -> None:
    """Numbers and kinds of flags, and the engines that they join."""
    entries = program.entries
    for count in ("waits", "sets"):
        reject(program, entries[count] > MOST_FLAGS,
               lambda e, c=count: f"has {entries[c][e]} {c}, at most {MOST_FLAGS} are allowed",  # type: ignore[misc]
               "spread them over several entries")  # fmt: skip
        _check_flag_rows(program, count[:-1], count)


def _check_flag_rows(program: Tables, first: str, count: str) -> None:
    entries, limits = program.entries, np.array(flag_counts(program.target))
    owner, rows = spread(entries[first], entries[count])
    flags = program.flags[rows] if len(rows) else program.flags[:0]
    kind, number, engine = flags["kind"], flags["number"], entries["engine"][owner]

    def refuse(bad: np.ndarray, problem: Callable[[int], str], action: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            place = f"{name_of(program, int(owner[row]))} {first}"
            raise UserError(f"{place}: {problem(row)}", where="validate", action=action)

    refuse(kind >= len(FLAG_KINDS), lambda r: f"flag kind {kind[r]} does not exist", "use core, cluster or chip flags")
    refuse((number < 0) | (number >= limits[kind]),
           lambda r: f"{FLAG_KINDS[kind[r]]} flag {number[r]} does not exist, "
           f"{program.target.name} has {limits[kind[r]]}",
           "use a smaller number")  # fmt: skip
    core = kind == 0
    refuse(core & (engine == _PREFETCH), lambda r: "a prefetch engine has no core flags", "use a cluster or chip flag")
    source, target = flags["source"], flags["target"]
    most = len(CORE_ENGINES)
    refuse(core & ((source >= most) | (target >= most) | (source == target)),
           lambda r: "a core flag joins two different engines of a core", "name two of them")  # fmt: skip
    mine = target if first == "wait" else source
    refuse(core & (mine != engine),
           lambda r: f"core flag {ENGINES[source[r]]}>{ENGINES[target[r]]} is none that {ENGINES[engine[r]]} "
           f"can {first}",
           "name the entry's own engine on its side")  # fmt: skip


def spread(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For ranges of table rows: the range's number and the table row, of every row in them."""
    count = count.astype(np.int64)
    owner = np.repeat(np.arange(len(first)), count)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return owner, first[owner] + place


def check_groups(program: Tables) -> None:
    """Multicasts and barriers name a group; the members of a multicast read the same source."""
    entries = program.entries
    grouped, multicast = np.zeros(_CODES, np.bool_), np.zeros(_CODES, np.bool_)
    for definition in TABLE:
        multicast[definition.code] = "multicast" in definition.tags
        grouped[definition.code] = multicast[definition.code] or definition.name == "barrier"
    code, group = entries["opcode"], entries["group"]
    reject(program, grouped[code] & (group < 0), lambda e: "names no group", "give its members one group")
    reject(program, ~grouped[code] & (group >= 0), lambda e: f"names group {group[e]}, but has no members elsewhere",
           "remove the group")  # fmt: skip
    members = np.flatnonzero(multicast[code])
    if len(members):
        _check_members(program, members)


def _check_members(program: Tables, members: np.ndarray) -> None:
    entries, operands = program.entries, program.operands
    order = members[np.argsort(entries["group"][members], kind="stable")]
    group = entries["group"][order]
    head = order[np.searchsorted(group, group)]
    source, first = _sources(program)[order], _sources(program)[head]

    def refuse(bad: np.ndarray, problem: str, action: str) -> None:
        everywhere = np.zeros(len(entries), np.bool_)
        everywhere[order] = bad
        reject(program, everywhere, lambda e: f"{problem} of group {entries['group'][e]}", action)

    refuse(entries["opcode"][order] != entries["opcode"][head], "is another instruction than the rest", "use one")
    refuse(operands[source] != operands[first], "reads another source than the rest", "give one source to all")
    apart = entries["cluster"][order] != entries["cluster"][head]
    refuse((operands["scope"][source] == SCOPES.index("llb")) & apart, "reads another cluster's llb than the rest",
           "multicast from ddr, or within one cluster")  # fmt: skip
    queue = (entries["group"][order].astype(np.int64) << 32) | (entries["cluster"][order].astype(np.int64) << 16)
    queue |= entries["core"][order].astype(np.int64) & 0xFFFF
    _, inverse, count = np.unique(queue, return_inverse=True, return_counts=True)
    refuse(count[inverse] > 1, "is one of two receivers in one queue", "name each receiver once")


def _sources(program: Tables) -> np.ndarray:
    """The row of each entry's src, 0 without."""
    owner, rows = spread(program.entries["operand"], program.entries["operands"])
    is_source = program.operands["role"][rows] == ROLE_CODE["src"]
    result = np.zeros(len(program.entries), np.int64)
    result[owner[is_source]] = rows[is_source]
    return result
