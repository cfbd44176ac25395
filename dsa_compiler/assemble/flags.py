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
    producer_class = klass[producer]
    source, target = QUEUE_OF_CLASS[producer_class], QUEUE_OF_CLASS[klass[consumer]]
    number = np.zeros(len(producer), np.int64)
    for pair in np.unique(source * 16 + target):
        rows = np.flatnonzero(source * 16 + target == pair)
        classes = np.unique(producer_class[rows])
        share = flags // len(classes)
        for place, c in enumerate(classes):
            mine = rows[producer_class[rows] == c]
            number[mine] = place * share + np.arange(len(mine)) % share
            _check_counts(klass, edges, mine, share)
    return FlagUses(producer, source, target, number), FlagUses(consumer, source, target, number)


def _check_counts(klass: np.ndarray, edges: Edges, rows: np.ndarray, share: int) -> None:
    """The k-th set of a flag must know that the wait of 15 sets before has been taken."""
    ahead = COUNT_LIMIT * share
    if len(rows) <= ahead:
        return
    producer, earlier = edges.producer[rows[ahead:]], edges.consumer[rows[:-ahead]]
    proven = edges.known[producer, klass[earlier]] >= earlier
    if not proven.all():
        raise Infeasible("flags", int((~proven).sum()), share, where="assemble.flags")
