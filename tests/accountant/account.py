"""The whole account of a listing: cycles, occupied time, bytes, conflicts, races, unwritten reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.accountant.clock import Clock, busy_time
from tests.accountant.costs import Costs
from tests.accountant.hazards import Hazard, find_hazards
from tests.accountant.listing_file import Listing
from tests.accountant.order import Order

KINDS = ("load", "store", "prefetch", "move", "matrix", "vector", "scalar")


@dataclass
class Account:
    """Times in cycles; `bytes` by (scope, "read" or "written"), whole bursts as charged."""

    cycles: float
    entries: int
    busy: dict[str, float]
    bytes: dict[tuple[str, str], float]
    conflict_cycles: float
    host_cycles: float
    hazards: list[Hazard] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)

    @property
    def races(self) -> list[Hazard]:
        return [h for h in self.hazards if h.kind != "unwritten"]

    @property
    def unwritten(self) -> list[Hazard]:
        return [h for h in self.hazards if h.kind == "unwritten"]


def account(top: dict, hazards: bool = True) -> Account:
    """Account for a parsed listing. Raises `AccountError` for a deadlock or a flag beyond its limit."""
    listing = Listing(top)
    clock = Clock(listing, Costs(listing.target))
    cycles = clock.run()
    found = find_hazards(listing, Order(listing, clock)) if hazards and listing.entries else []
    return Account(
        cycles, len(listing.entries), busy_time(clock), _bytes(listing, clock), clock.conflict, clock.host_time, found,
        clock.start, clock.end, clock.done,
    )  # fmt: skip


def _bytes(listing: Listing, clock: Clock) -> dict[tuple[str, str], float]:
    """Bytes that each kind of memory gave and took; a multicast reads its source once."""
    result: dict[tuple[str, str], float] = {(s, d): 0.0 for s in ("ddr", "llb") for d in ("read", "written")}
    seen: set[int] = set()
    for number, entry in enumerate(listing.entries):
        cost = clock.cost[number]
        if not cost.flow:
            continue
        group = entry.get("group")
        moved = cost.work
        if group is not None:
            moved = max(clock.cost[m].work for m in clock.group_members[group])
        for operand in entry["operands"]:
            if operand["scope"] not in ("ddr", "llb"):
                continue
            if operand["role"] == "dst":
                result[operand["scope"], "written"] += moved
            elif operand["role"] == "src" and (group is None or group not in seen):
                result[operand["scope"], "read"] += moved
        if group is not None:
            seen.add(group)
    return result
