"""Barriers between kernels of clusters: after which call, for which clusters, and what waits for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dsa_compiler.assemble.barriers import barrier_rows, predecessors
from dsa_compiler.assemble.calls import AttrTable, ClusterPlace, KernelCall
from dsa_compiler.assemble.link import link
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.lower.tir import buffer
from dsa_compiler.program.tables import Binding
from dsa_compiler.simulator.machine import simulate
from dsa_compiler.simulator.race import analyse_order
from tests.assemble.kernels import call_of, program_of, trace_of
from tests.assemble.test_link import COLUMNS, FOUR, ONE, ROWS, SIZE, A, B, relu_kernel
from tests.lower.parts import part

TRACE = trace_of(FOUR, [A, B], relu_kernel(2))
"""A kernel for the two cores of a cluster."""


def of_clusters(clusters: tuple[int, ...], after: int | None, **more: Any) -> KernelCall:
    places = tuple(ClusterPlace(c, (c * SIZE, (2 + c) * SIZE)) for c in clusters)
    return KernelCall(TRACE, (), (False, False), clusters=places, after=after, chip_wide=False, **more)


def barriers(*calls: KernelCall, target: Any = FOUR) -> list[tuple[int, str, list[int]]]:
    """(call, scope, chip cores) of each barrier."""
    attrs = AttrTable()
    rows = barrier_rows(calls, target, attrs, 0)
    rows = rows[[BY_CODE[int(c)].name == "barrier" for c in rows["opcode"]]] if len(rows) else rows
    result = []
    for group in np.unique(rows["group"]).tolist():
        mine = rows[rows["group"] == group]
        scope = str(attrs.values[int(mine["attrs"][0])]["scope"])
        result.append((int(mine["call"][0]), scope, mine["chip_core"].tolist()))
    return result


def test_a_call_waits_for_the_one_before_unless_it_says_otherwise() -> None:
    plain = call_of(TRACE, 0, SIZE)
    assert predecessors([plain, plain, replace(plain, after=0), replace(plain, after=-1)]).tolist() == [-1, 0, 0, -1]


def test_calls_of_another_segment_are_complete() -> None:
    plain = call_of(TRACE, 0, SIZE)
    later = replace(plain, segment=1)
    assert predecessors([plain, later, replace(later, after=0), replace(later, after=1)]).tolist() == [-1, -1, -1, 1]


def test_each_cluster_meets_alone() -> None:
    found = barriers(of_clusters((0, 1), -1), of_clusters((0, 1), 0))
    assert found == [(0, "cluster", [0, 1]), (0, "cluster", [2, 3])]


def test_only_clusters_that_wait_meet() -> None:
    found = barriers(of_clusters((0, 1), -1), of_clusters((1,), 0))
    assert found == [(0, "cluster", [2, 3])]


def test_calls_behind_the_same_one_share_its_barrier() -> None:
    found = barriers(of_clusters((0, 1), -1), of_clusters((0,), 0), of_clusters((0,), 0), of_clusters((1,), 0))
    assert found == [(0, "cluster", [0, 1]), (0, "cluster", [2, 3])]


def test_what_other_clusters_wrote_is_waited_for_by_the_chip() -> None:
    wide = replace(of_clusters((0, 1), 0), chip_wide=True)
    assert barriers(of_clusters((0, 1), -1), wide) == [(0, "chip", [0, 1, 2, 3])]
    assert barriers(of_clusters((0, 1), -1), replace(of_clusters((0,), 0), chip_wide=True))[0][1] == "chip"


def test_a_barrier_of_the_chip_serves_its_clusters() -> None:
    wide = replace(of_clusters((0, 1), 0), chip_wide=True)
    assert barriers(of_clusters((0, 1), -1), of_clusters((0,), 0), wide) == [(0, "chip", [0, 1, 2, 3])]


def test_a_kernel_of_the_chip_waits_for_all() -> None:
    assert barriers(of_clusters((0, 1), -1), call_of(TRACE, 0, SIZE)) == [(0, "chip", [0, 1, 2, 3])]


def test_nothing_to_wait_for() -> None:
    assert barriers(of_clusters((0, 1), -1), of_clusters((0, 1), -1)) == []
    assert barriers(call_of(TRACE, 0, SIZE), call_of(TRACE, 0, SIZE), target=ONE) == []
    assert barriers(call_of(TRACE, 0, SIZE), call_of(TRACE, 0, SIZE), target=part("plain"))[0][1] == "cluster"


def chain_of_clusters(after: int, reverse: bool) -> tuple[Any, np.ndarray]:
    """Each cluster computes relu of its own rows twice; with `reverse` each core reads what the other wrote."""
    values = np.random.default_rng(0).standard_normal((2, ROWS, COLUMNS)).astype(np.float16)
    calls = []
    for number in range(2):
        trace = trace_of(FOUR, [A, B], relu_kernel(2, reverse=reverse and number == 1))
        places = tuple(ClusterPlace(c, ((2 * number + c) * SIZE, (2 * number + 2 + c) * SIZE)) for c in range(2))
        calls.append(
            KernelCall(
                trace, (), (number == 0, False), number=number, clusters=places, chip_wide=False,
                after=after if number else -1, start=float(number), end=number + 1.0,
            )
        )  # fmt: skip
    stream = link(calls, FOUR)
    output = Binding("y", 4 * SIZE, (2, ROWS, COLUMNS), "float16")
    return program_of(FOUR, stream, 6 * SIZE, [(0, values)], [output]), np.maximum(values, 0)


def test_clusters_are_right_and_free_of_races() -> None:
    program, expected = chain_of_clusters(0, reverse=True)
    result = simulate(program, {}).outputs
    assert result is not None and np.array_equal(result["y"], expected)
    for seed in (1, 2, 3):
        again = simulate(program, {}, race_seed=seed, check=False).outputs
        assert again is not None and again["y"].tobytes() == result["y"].tobytes()


def test_a_forgotten_wait_is_a_race() -> None:
    """The barrier is what orders: without `after` the second kernel reads what may not be written."""
    program, _ = chain_of_clusters(-1, reverse=True)
    assert analyse_order(program).findings
    assert not analyse_order(chain_of_clusters(0, reverse=True)[0]).findings


def test_a_call_reads_beside_an_unrelated_one() -> None:
    """The third call waits for the first, not the second: nothing of it stands behind the second's barrier."""
    far = buffer("far", (ROWS, COLUMNS), "float16")
    other = trace_of(FOUR, [A, far], relu_kernel(2, result=far))
    calls = [
        of_clusters((0,), -1, start=0.0, end=1.0),
        replace(of_clusters((0,), 0, start=1.0, end=2.0, number=1), trace=other),
        of_clusters((0,), 0, start=1.5, end=2.5, number=2),
    ]
    assert [b[0] for b in barriers(*calls)] == [0]
