"""Relays: entries of the scalar queue by which a load or store waits for one before it in its own queue.

No flag joins a queue with itself, and a DMA completes a latency after the engine took the next. A relay waits for the
first of the two and sets a flag for the second. It stands where its consumer stands in the order of the stream, so that
it waits for nothing behind it.
"""

from __future__ import annotations

import numpy as np

from dsa_compiler.isa.table import OPCODES
from dsa_compiler.program.tables import ENGINE_CODE


def insert_relays(
    entries: np.ndarray, gate: np.ndarray, detours: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries with a relay before the consumer of each of the `detours` (producer, consumer); their gates; sources.

    A consumer's gate becomes the last relay before it, which stands behind the barrier that it waited for until now.
    source: by entry the producer that a relay waits for, -1 of all others.
    """
    detours = detours[np.argsort(detours[:, 1], kind="stable")].astype(np.int64)
    producer, consumer = detours[:, 0], detours[:, 1]
    relays = entries[consumer].copy()
    relays["opcode"], relays["engine"] = OPCODES["wait"].code, ENGINE_CODE["scalar"]
    relays["operands"], relays["attrs"], relays["group"] = 0, 0, -1
    moved = np.arange(len(entries)) + np.searchsorted(consumer, np.arange(len(entries)), side="right")
    place = consumer + np.arange(len(consumer))
    gates = np.full(len(entries) + len(relays), -1, np.int64)
    gates[moved] = np.where(gate >= 0, moved[gate], -1)
    gates[moved[consumer]] = place  # several relays of one consumer: the last one counts, behind the others
    source = np.full(len(gates), -1, np.int64)
    source[place] = moved[producer]
    return np.insert(entries, consumer, relays), gates, source
