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
MOST_ROUNDS = 8


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
    for _ in range(MOST_ROUNDS):
        number, late, early = _number(klass, producer, consumer, edges.known, flags)
        if not len(late):
            source, target = QUEUE_OF_CLASS[klass[producer]], QUEUE_OF_CLASS[klass[consumer]]
            return FlagUses(producer, source, target, number), FlagUses(consumer, source, target, number)
        if (early >= late).any():
            raise Infeasible("flags", int((early >= late).sum()) + COUNT_LIMIT * flags, COUNT_LIMIT * flags, where="assemble.flags")
        producer, consumer = _with_edges(producer, consumer, early, late)
    raise Infeasible("flags", len(late), 0, where="assemble.flags")


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
    producer: np.ndarray, consumer: np.ndarray, new_producer: np.ndarray, new_consumer: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The edges and more, in the order of their consumers, each once."""
    pairs = np.stack([np.concatenate([consumer, new_consumer]), np.concatenate([producer, new_producer])], axis=1)
    pairs = np.unique(pairs, axis=0)
    return pairs[:, 1], pairs[:, 0]
