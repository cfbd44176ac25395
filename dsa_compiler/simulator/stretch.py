"""Race mode: other durations and latencies, so that what no flag orders happens in another order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsa_compiler.program.tables import Program
from dsa_compiler.simulator.timing import Stretch

_MOST = 3.0


@dataclass(frozen=True)
class RaceChoice:
    """What a seed chooses: factors from 1 to 3 for times, and which entries read their operands early."""

    times: Stretch
    read_early: np.ndarray


def random_stretch(program: Program, seed: int) -> RaceChoice:
    """The choice of a seed for every entry of `program`.

    Half of the factors are 1 or 3, so that extremes meet.
    """
    random = np.random.default_rng(seed)
    count = len(program.entries)
    return RaceChoice(
        Stretch(_factors(random, count), _factors(random, count)),
        random.random(count) < 0.5,
    )


def _factors(random: np.random.Generator, count: int) -> np.ndarray:
    kind = random.random(count)
    between = random.uniform(1.0, _MOST, count)
    return np.where(kind < 0.25, 1.0, np.where(kind < 0.5, _MOST, between))
