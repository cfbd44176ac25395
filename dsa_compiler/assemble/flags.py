"""Give each dependence of a core a flag, so that no count can pass 15.

The flags of an ordered pair of engines are used in turn. A flag that may still hold 15 sets when its next set
takes place gets a wait in the other direction first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsa_compiler.assemble.dependences import QUEUE_OF_CLASS, Edges
from dsa_compiler.errors import Infeasible

COUNT_LIMIT = 15
MOST_ROUNDS = 16


@dataclass(frozen=True)
class FlagUses:
    """One row a set or a wait: `entry` (in the core's stream) uses flag source > target : number."""

    entry: np.ndarray
    source: np.ndarray
    target: np.ndarray
    number: np.ndarray


def assign_flags(klass: np.ndarray, edges: Edges, flags: int) -> tuple[FlagUses, FlagUses]:
    """Sets and waits for `edges`, with `flags` numbers for each ordered pair of engines.

    Raises `Infeasible` if so many producers run ahead of their consumers that no flag could count them.
    """
    producer, consumer = edges.producer, edges.consumer
    if len(producer) and not flags:
        raise Infeasible("flags", 1, flags, where="assemble.flags")
    group = 1
    for _ in range(MOST_ROUNDS):
        number, late, early = _number(klass, producer, consumer, edges.known, flags)
        if not len(late):
            source, target = QUEUE_OF_CLASS[klass[producer]], QUEUE_OF_CLASS[klass[consumer]]
            return FlagUses(producer, source, target, number), FlagUses(consumer, source, target, number)
        impossible = early >= late
        if impossible.any():
            group *= 2
            producer, consumer = _thin(klass, producer, consumer, late[impossible], group)
        else:
            producer, consumer = _with_edges(klass, producer, consumer, early, late)
    raise Infeasible("flags", COUNT_LIMIT * flags + len(late), COUNT_LIMIT * flags, where="assemble.flags")


def _thin(
    klass: np.ndarray, producer: np.ndarray, consumer: np.ndarray, late: np.ndarray, group: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fewer edges between the engines of the producers `late`: up to `group` of them become one.

    The first consumer of a group waits for the last of its producers that stands before it, which proves the others
    complete for the consumers behind it. The order of the stream still satisfies every wait.
    """
    key = klass[producer] * 16 + QUEUE_OF_CLASS[klass[consumer]]
    keep = np.ones(len(producer), bool)
    producer = producer.copy()
    for pair in np.unique(key[np.isin(producer, late)]):
        rows = np.flatnonzero(key == pair)
        start = 0
        while start < len(rows):
            before = int(np.searchsorted(producer[rows[start:]], consumer[rows[start]]))
            size = max(1, min(group, before))
            producer[rows[start]] = producer[rows[start + size - 1]]
            keep[rows[start + 1 : start + size]] = False
            start += size
    return producer[keep], consumer[keep]


def _number(
    klass: np.ndarray, producer: np.ndarray, consumer: np.ndarray, known: np.ndarray, flags: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A flag for each edge; then producers that may not set theirs yet, and the consumers they have to wait for."""
    of = klass[producer]
    pair = QUEUE_OF_CLASS[of] * 16 + QUEUE_OF_CLASS[klass[consumer]]
    waited = set(zip(producer.tolist(), consumer.tolist(), strict=True))
    number = np.zeros(len(producer), np.int64)
    late: list[int] = []
    early: list[int] = []
    for key in np.unique(pair):
        rows = np.flatnonzero(pair == key)
        classes = np.unique(of[rows])
        share = flags // len(classes)
        if not share:
            raise Infeasible("flags", len(classes), flags, where="assemble.flags")
        for place, c in enumerate(classes):
            mine = rows[of[rows] == c]
            number[mine] = place * share + np.arange(len(mine)) % share
            ahead = COUNT_LIMIT * share
            if len(mine) <= ahead:
                continue
            later, before = producer[mine[ahead:]], consumer[mine[:-ahead]]
            missing = known[later, klass[before]] < before
            for p, e in zip(later[missing].tolist(), before[missing].tolist(), strict=True):
                if (e, p) not in waited:
                    late.append(p)
                    early.append(e)
    return number, np.array(late, np.int64), np.array(early, np.int64)


def _with_edges(
    klass: np.ndarray, producer: np.ndarray, consumer: np.ndarray, new_producer: np.ndarray, new_consumer: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The edges and more, in the order of their consumers.

    An edge whose producer an earlier wait of the same queue has proven complete is left out, so that sets and waits
    of a pair stay in the same order.
    """
    producer = np.concatenate([producer, new_producer])
    consumer = np.concatenate([consumer, new_consumer])
    order = np.lexsort((-producer, consumer))
    producer, consumer = producer[order], consumer[order]
    key = klass[producer] * 16 + QUEUE_OF_CLASS[klass[consumer]]
    keep = np.zeros(len(producer), bool)
    for pair in np.unique(key):
        rows = np.flatnonzero(key == pair)
        latest = np.maximum.accumulate(producer[rows])
        keep[rows] = producer[rows] > np.concatenate([[-1], latest[:-1]])
    return producer[keep], consumer[keep]
