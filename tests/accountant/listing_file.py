"""A listing as the accountant works on it: queues of entries, and what each queue is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ENGINES = ("load", "store", "move", "matrix", "vector", "scalar", "prefetch")
"""In the order that breaks ties, the cluster's prefetch engine after its cores."""

Queue = tuple[int, int, int]
"""(cluster, core, engine); the core of a prefetch queue is the number of cores, so that queues sort as ties break."""


class Listing:
    """The parsed file: `queue[i]` and `place[i]` of entry i; `entries_of[q]`, a queue's entries in order."""

    def __init__(self, top: dict[str, Any]) -> None:
        self.top = top
        self.target = top["target"]
        self.entries: list[dict] = top["instructions"]
        self.queue: list[Queue] = [self._queue(e) for e in self.entries]
        self.entries_of: dict[Queue, list[int]] = {q: [] for q in sorted(set(self.queue))}
        self.place: list[int] = []
        for number, queue in enumerate(self.queue):
            self.place.append(len(self.entries_of[queue]))
            self.entries_of[queue].append(number)

    def _queue(self, entry: dict) -> Queue:
        core = entry.get("core")
        engine = ENGINES.index(entry["engine"])
        return entry["cluster"], self.target["cores_per_cluster"] if core is None else core, engine

    def flag(self, number: int, text: str) -> tuple:
        """A flag by name, with the core or cluster of entry `number` where it is local to that."""
        cluster, core, _ = self.queue[number]
        kind = text.split(":", 1)[0]
        if kind == "core":
            return ("core", cluster, core, text)
        return ("cluster", cluster, text) if kind == "cluster" else ("chip", text)

    def groups(self) -> dict[int, list[int]]:
        """Members of each group: multicasts and barriers."""
        result: dict[int, list[int]] = {}
        for number, entry in enumerate(self.entries):
            group = entry.get("group")
            if group is not None and group >= 0:
                result.setdefault(group, []).append(number)
        return result

    def name(self, queue: Queue) -> str:
        cluster, core, engine = queue
        place = f"c{cluster}" if ENGINES[engine] == "prefetch" else f"c{cluster}.{core}"
        return f"{place} {ENGINES[engine]}"


def read_listing(path: str | Path) -> Listing:
    with open(path, encoding="utf-8") as stream:
        return Listing(json.load(stream))
