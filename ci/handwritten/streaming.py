"""Programs that only stream: bound by ddr, and all that a core has to do fits into its l1.

Then nothing waits for room: the loads of all tiles stand in the queue from the start and keep ddr busy, and so do
the stores once they begin. The one loss is at the end, when the last tile must still be worked on and stored
after the last load. So the first store waits until a good part of the loads is in (the gate): the loads then end
earlier, and stores are left to keep ddr busy to the last byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ci.handwritten.writer import Text

NUMBERS = 8
"""Flag numbers taken in turn, so that none counts beyond 15 while stores wait for the gate."""

Step = tuple[str, tuple[str, ...], dict[str, Any]]


class Stream:
    """The load, vector and store queues of one core."""

    def __init__(self, text: Text, core: int, tiles: int, gate: float = 0.6, worker: str = "vector") -> None:
        self.text, self.core, self.worker = text, core, worker
        self.gate = int(tiles * gate)

    def load(self, tile: int, to: str, of: str, op: str = "load", **attrs: Any) -> None:
        """Bring tile number `tile`."""
        go = ["core:load>store:0"] if tile == self.gate else []
        self.text.on(self.core, "load", op, to, of, set=[self.arrived(tile), *go], **attrs)

    def arrived(self, tile: int) -> str:
        """The flag of a tile's load."""
        return f"core:load>{self.worker}:{tile % NUMBERS}"

    def done(self, tile: int) -> str:
        """The flag of a tile's result."""
        return f"core:vector>store:{tile % NUMBERS}"

    def vector(self, tile: int, steps: Sequence[Step], wait: Sequence[str] = ()) -> None:
        """The vector instructions of a tile."""
        for number, (op, operands, attrs) in enumerate(steps):
            first = (
                [self.arrived(tile), *wait]
                if number == 0 and self.worker == "vector"
                else list(wait)
                if number == 0
                else []
            )
            last = [self.done(tile)] if number == len(steps) - 1 else []
            self.text.on(self.core, "vector", op, *operands, wait=first, set=last, **attrs)

    def store(self, tile: int, to: str, of: str) -> None:
        """Take a tile's result away."""
        go = ["core:load>store:0"] if tile == 0 else []
        self.text.on(self.core, "store", "store", to, of, wait=[self.done(tile), *go])
