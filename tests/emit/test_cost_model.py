from tvm.script import tirx as T

from dsa_compiler.emit.cost_model import CostModel
from dsa_compiler.emit.emission import Emission
from dsa_compiler.emit.pipeline import PIPELINE, EmitOptions
from dsa_compiler.isa.cost import vector_cycles


def emitted(func, target):
    for make in PIPELINE:
        func = make(target, EmitOptions())(func)
    emission = Emission(target)
    emission(func)
    return emission.emitted


@T.prim_func(s_tir=True)
def rows(
    x: T.Buffer((2, 3, 8, 64), "float32", scope="global.l1"), y: T.Buffer((4, 6, 8, 80), "float32", scope="global.l1")
):
    for a, b, i, j in T.grid(2, 3, 6, 64):
        y[a, b, i, j] = T.exp(x[a, b, i, j])


def test_cycles_are_those_of_the_table_times_the_loops_around(v1):
    (one,) = emitted(rows, v1)
    model = CostModel(v1)
    assert one.plan.outer == (0,)
    assert model.cycles(one.plan, one.nests[0].axes) == 2 * float(vector_cycles(v1, 18, 256, "transcendental"))


def test_the_cheapest_of_several_is_taken_and_none_of_none(v1):
    (one,) = emitted(rows, v1)
    axes = one.nests[0].axes
    from dataclasses import replace

    dear = replace(one.plan, outer=(0, 1))
    model = CostModel(v1)
    assert model.cheapest([dear, one.plan], axes) is one.plan
    assert model.cheapest([dear], axes) is dear
    assert model.cheapest([], axes) is None
