"""Compiled programs account for themselves: the same cycles from the listing alone, no race, no unwritten read."""

import dataclasses

import numpy as np
import pytest

import dsa_compiler as dsac
import models
from dsa_compiler.errors import UserError
from dsa_compiler.program.listing import listing
from dsa_compiler.simulator.race import check_order
from dsa_compiler.simulator.timing import time_program
from tests.accountant.account import account
from tests.accountant.clock import AccountError

CASES = [
    ("tiny_cnn", "npu-v1", "float16"),
    ("tiny_transformer", "npu-v1", "float32"),
    ("tiny_cnn", "npu-v2", "float32"),
    ("tiny_transformer", "npu-edge", "float16"),
    ("tiny_cnn", "npu-bench", "float16"),
]


def compiled(model, target, precision):
    return dsac.compile(models.build(model), target=target, precision=precision).program


@pytest.mark.parametrize(("model", "target", "precision"), CASES)
def test_a_compiled_model_accounts_for_itself(model, target, precision):
    program = compiled(model, target, precision)
    result = account(listing(program))
    assert [str(h) for h in result.hazards] == []
    timing = time_program(program)
    assert result.cycles == pytest.approx(timing.cycles, rel=1e-6)
    assert result.conflict_cycles == pytest.approx(timing.conflict_cycles, abs=1e-2)
    for engine, busy in timing.busy_by_engine().items():
        assert result.busy[engine] == pytest.approx(busy, rel=1e-6)
    for where, count in timing.traffic.items():
        assert result.bytes[where] == pytest.approx(count)


def without_wait(program, entry):
    """The program with the first wait of an entry taken away."""
    entries = program.entries.copy()
    entries["wait"][entry] += 1
    entries["waits"][entry] -= 1
    return dataclasses.replace(program, entries=entries)


def accountant_objects(program):
    try:
        return bool(account(listing(program)).hazards)
    except AccountError:
        return True


def simulator_objects(program):
    try:
        check_order(program)
    except UserError:
        return True
    return False


def test_a_lost_wait_is_seen_by_both_or_is_not_needed():
    """The accountant and the simulator's static check, written apart, give the same verdict on every lost wait."""
    program = compiled("tiny_cnn", "npu-v1", "float16")
    waiting = np.flatnonzero(program.entries["waits"])
    verdicts = []
    for entry in waiting[:: max(1, len(waiting) // 40)]:
        broken = without_wait(program, entry)
        verdicts.append((accountant_objects(broken), simulator_objects(broken)))
    assert [a for a, _ in verdicts] == [s for _, s in verdicts]
    assert sum(a for a, _ in verdicts) > len(verdicts) / 2
