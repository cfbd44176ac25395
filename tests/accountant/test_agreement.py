"""The accountant and the simulator, written apart, give the same times for random programs."""

import numpy as np
import pytest

from dsa_compiler.program.listing import listing
from dsa_compiler.simulator.timing import time_program
from tests.accountant.account import account
from tests.accountant.random_programs import random_program


@pytest.mark.parametrize("target", ["npu-v1", "npu-v2", "npu-edge", "npu-bench"])
@pytest.mark.parametrize("seed", range(6))
def test_both_accounts_agree(target, seed):
    program = random_program(seed, 300, target)
    ours, theirs = account(listing(program)), time_program(program)
    assert ours.cycles == pytest.approx(theirs.cycles, rel=1e-6)
    assert np.allclose(ours.start, theirs.start, atol=1e-3)
    assert np.allclose(ours.end, theirs.end, atol=1e-3)
    assert ours.conflict_cycles == pytest.approx(theirs.conflict_cycles, abs=1e-2)
