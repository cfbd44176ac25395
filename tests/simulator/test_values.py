"""Values: operands as views, rounding, traps, bindings, host steps, race mode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dsa_compiler.errors import InternalError, UserError
from dsa_compiler.isa.table import BY_CODE
from dsa_compiler.program.builder import Flag, Operand, ProgramBuilder
from dsa_compiler.program.tables import Binding, Constant, HostStep
from dsa_compiler.simulator import memories, values
from dsa_compiler.simulator.machine import simulate
from dsa_compiler.simulator.timing import time_program
from dsa_compiler.simulator.values import run_values
from dsa_compiler.target import load_target

EXACT = np.testing.assert_array_equal


def box(role, scope, address, extents, dtype="float16", strides=None):
    return Operand(role, scope, address, dtype, extents, strides)


def core(source, target, number=0):
    return Flag("core", number, source, target)


@pytest.fixture
def build(part):
    return ProgramBuilder(part)


def through(build, op, shape_in, shape_out, dtype_in="float16", dtype_out="float16", extra=(), attrs=None, value=None):
    """x -> l1 -> op -> l1 -> y; returns y for a random or given x."""
    size_in, size_out = int(np.prod(shape_in)), int(np.prod(shape_out))
    build.inputs.append(Binding("x", 0, shape_in, dtype_in))
    build.outputs.append(Binding("y", 4096, shape_out, dtype_out))
    src, dst = (size_in,), (size_out,)
    build.add("load", [box("dst", "l1", 0, src, dtype_in), box("src", "ddr", 0, src, dtype_in)],
              sets=[core("load", "vector")])  # fmt: skip
    build.add(op, [box("dst", "l1", 4096, shape_out, dtype_out), box("src", "l1", 0, shape_in, dtype_in), *extra],
              attrs=attrs, waits=[core("load", "vector")], sets=[core("vector", "store")])  # fmt: skip
    build.add("store", [box("dst", "ddr", 4096, dst, dtype_out), box("src", "l1", 4096, dst, dtype_out)],
              waits=[core("vector", "store")])  # fmt: skip
    return simulate(build.build(), {"x": value}).outputs["y"]


def test_results_are_rounded_to_the_destination_once(build):
    x = np.array([[1 + 2**-10, 3.3, -7.1] + [0.1] * 29], np.float16)
    EXACT(through(build, "square", (1, 32), (1, 32), value=x), (x.astype(np.float32) ** 2).astype(np.float16))


def test_operands_have_their_own_dtypes(build):
    x = np.linspace(-3, 3, 32, dtype=np.float16).reshape(1, 32)
    y = through(build, "exp", (1, 32), (1, 32), "float16", "float32", value=x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, np.exp(x.astype(np.float32)), rtol=1e-6)


def test_a_copy_keeps_elements_in_order_between_other_views(build):
    x = np.arange(96, dtype=np.float16)
    build.inputs.append(Binding("x", 0, (96,), "float16"))
    build.outputs.append(Binding("y", 4096, (6, 16), "float16"))
    build.add("load", [box("dst", "l1", 0, (2, 3, 16), strides=(512, 64, 2)), box("src", "ddr", 0, (96,))],
              sets=[core("load", "store")])  # fmt: skip
    build.add("store", [box("dst", "ddr", 4096, (96,)), box("src", "l1", 0, (2, 3, 16), strides=(512, 64, 2))],
              waits=[core("load", "store")])  # fmt: skip
    EXACT(simulate(build.build(), {"x": x}).outputs["y"], x.reshape(6, 16))


def test_a_repeated_row_is_read_again(build):
    x = np.arange(16, dtype=np.float16)
    build.inputs.append(Binding("x", 0, (16,), "float16"))
    build.outputs.append(Binding("y", 4096, (4, 16), "float16"))
    build.add("load", [box("dst", "l1", 0, (4, 16)), box("src", "ddr", 0, (4, 16), strides=(0, 2))],
              sets=[core("load", "store")])  # fmt: skip
    build.add("store", [box("dst", "ddr", 4096, (64,)), box("src", "l1", 0, (64,))], waits=[core("load", "store")])
    EXACT(simulate(build.build(), {"x": x}).outputs["y"], np.tile(x, (4, 1)))


def test_a_product_with_its_accumulator(build):
    """y = a @ b + a @ b, through l0a, l0b, l0c and a rounding store."""
    a, b = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float16)
    build.inputs += [Binding("a", 0, (16, 16), "float16"), Binding("b", 512, (16, 16), "float16")]
    build.outputs.append(Binding("y", 4096, (16, 16), "float16"))
    for place, (name, move) in enumerate((("l0a", "move_a"), ("l0b", "move_b"))):
        at = 512 * place
        build.add(
            "load",
            [box("dst", "l1", at, (16, 16)), box("src", "ddr", at, (16, 16))],
            sets=[core("load", "move", place)],
        )
        build.add(move, [box("dst", name, 0, (16, 16)), box("src", "l1", at, (16, 16))],
                  waits=[core("load", "move", place)], sets=[core("move", "matrix", place)])  # fmt: skip
    lhs, rhs = box("lhs", "l0a", 0, (16, 16)), box("rhs", "l0b", 0, (16, 16))
    build.add("matmul", [box("dst", "l0c", 0, (16, 16), "float32"), lhs, rhs],
              waits=[core("move", "matrix", 0), core("move", "matrix", 1)])  # fmt: skip
    build.add("matmul_acc", [box("acc", "l0c", 0, (16, 16), "float32"), lhs, rhs], sets=[core("matrix", "store")])
    build.add("store_round", [box("dst", "ddr", 4096, (16, 16)), box("src", "l0c", 0, (16, 16), "float32")],
              waits=[core("matrix", "store")])  # fmt: skip
    y = simulate(build.build(), {"a": a, "b": b}).outputs["y"]
    np.testing.assert_allclose(y, 2 * (a.astype(np.float32) @ b.astype(np.float32)), rtol=1e-3, atol=1e-3)


def test_constants_are_in_ddr_before_the_start(build):
    build.constants.append(Constant(64, np.arange(32, dtype=np.uint8)))
    build.outputs.append(Binding("y", 64, (32,), "uint8"))
    EXACT(simulate(build.build(), {}).outputs["y"], np.arange(32, dtype=np.uint8))


def gather(build, index, rows_known=8):
    build.inputs += [Binding("t", 0, (rows_known, 16), "float16"), Binding("i", 1024, (4,), "int32")]
    build.outputs.append(Binding("y", 4096, (4, 16), "float16"))
    build.add("load", [box("dst", "l1", 0, (4,), "int32"), box("src", "ddr", 1024, (4,), "int32")],
              sets=[core("load", "scalar")])  # fmt: skip
    build.add("wait", engine="scalar", waits=[core("load", "scalar")], sets=[core("scalar", "load")])
    build.add("load_gather", [box("dst", "l1", 512, (4, 16)), box("src", "ddr", 0, (8, 16)),
                              box("index", "l1", 0, (4,), "int32")],
              waits=[core("scalar", "load")], sets=[core("load", "store")])  # fmt: skip
    build.add(
        "store", [box("dst", "ddr", 4096, (4, 16)), box("src", "l1", 512, (4, 16))], waits=[core("load", "store")]
    )
    table = np.arange(rows_known * 16, dtype=np.float16).reshape(rows_known, 16)
    return table, simulate(build.build(), {"t": table, "i": np.array(index, np.int32)}).outputs["y"]


def test_a_gather_takes_rows_by_index(build):
    table, y = gather(build, [3, 0, 3, 7])
    EXACT(y, table[[3, 0, 3, 7]])


def test_a_gather_needs_only_the_rows_that_it_takes(build):
    table, y = gather(build, [3, 0, 3, 1], rows_known=4)
    EXACT(y, table[[3, 0, 3, 1]])


def test_a_gather_of_an_unwritten_row_traps(build):
    with pytest.raises(
        UserError, match=r"unwritten read: entry 2 \(load_gather\) reads src in ddr from byte 0, of which"
    ):
        gather(build, [3, 0, 3, 6], rows_known=4)


def test_an_index_out_of_range_traps(build):
    with pytest.raises(UserError, match=r"entry 2 \(load_gather\): index 9 is outside 0 to 7; correct the index"):
        gather(build, [3, 9, 3, 6])


def scatter(build, dst, index):
    build.inputs += [Binding("x", 0, (4, 16), "float16"), Binding("i", 1024, (4,), "int32")]
    build.add("load", [box("dst", "l1", 0, (4,), "int32"), box("src", "ddr", 1024, (4,), "int32")])
    build.add("load", [box("dst", "l1", 512, (4, 16)), box("src", "ddr", 0, (4, 16))], sets=[core("load", "store")])
    build.add("store_scatter", [dst, box("src", "l1", 512, (4, 16)), box("index", "l1", 0, (4,), "int32")],
              waits=[core("load", "store")])  # fmt: skip
    x = np.arange(64, dtype=np.float16).reshape(4, 16)
    return x, simulate(build.build(), {"x": x, "i": np.array(index, np.int32)})


def test_a_scatter_puts_rows_where_the_index_says(build):
    build.outputs.append(Binding("y", 4096, (4, 16), "float16"))
    x, result = scatter(build, box("dst", "ddr", 4096, (2, 2, 16)), [3, 0, 2, 1])
    EXACT(result.outputs["y"], x[[1, 3, 2, 0]])


def test_a_scatter_writes_only_its_rows(build):
    build.outputs.append(Binding("y", 4096, (4, 16), "float16"))
    with pytest.raises(
        UserError, match="the output 'y' has bytes that nothing wrote; the program must write the whole"
    ):
        scatter(build, box("dst", "ddr", 4096, (4, 16)), [3, 0, 2, 2])


def test_an_unwritten_read_traps(build):
    build.outputs.append(Binding("y", 4096, (1, 32), "float16"))
    build.inputs.append(Binding("x", 0, (24,), "float16"))
    build.add("load", [box("dst", "l1", 64, (24,)), box("src", "ddr", 0, (24,))], sets=[core("load", "vector")])
    build.add("relu", [box("dst", "l1", 4096, (1, 32)), box("src", "l1", 64, (1, 32))], waits=[core("load", "vector")])
    message = (
        r"unwritten read: entry 1 \(relu\) reads src in l1 of cluster 0 core 0 from byte 64, of which byte 112 was "
        "never written; write it first, or wait for the entry that does"
    )
    with pytest.raises(UserError, match=message):
        simulate(build.build(), {"x": np.zeros(24, np.float16)})


def test_int4_elements_lie_two_in_a_byte_low_first():
    build = ProgramBuilder(load_target("npu-v2"))
    x = np.array([-8, 7, 1, -1] * 32, np.int8)
    build.inputs.append(Binding("x", 0, (128,), "int4"))
    build.outputs += [
        Binding("y", 4096, (128,), "int8"),
        Binding("z", 8192, (128,), "int4"),
        Binding("p", 0, (64,), "uint8"),
    ]
    build.add(
        "load",
        [box("dst", "l1", 0, (128,), "int4"), box("src", "ddr", 0, (128,), "int4")],
        sets=[core("load", "vector")],
    )
    build.add("cast", [box("dst", "l1", 4096, (128,), "int8"), box("src", "l1", 0, (128,), "int4")],
              waits=[core("load", "vector")], sets=[core("vector", "store")])  # fmt: skip
    build.add("cast", [box("dst", "l1", 8192, (128,), "int4"), box("src", "l1", 4096, (128,), "int8")],
              sets=[core("vector", "store", 1)])  # fmt: skip
    build.add("store", [box("dst", "ddr", 4096, (128,), "int8"), box("src", "l1", 4096, (128,), "int8")],
              waits=[core("vector", "store")])  # fmt: skip
    build.add("store", [box("dst", "ddr", 8192, (128,), "int4"), box("src", "l1", 8192, (128,), "int4")],
              waits=[core("vector", "store", 1)])  # fmt: skip
    outputs = simulate(build.build(), {"x": x}).outputs
    EXACT(outputs["y"], x)
    EXACT(outputs["z"], x)
    EXACT(outputs["p"][:2], [0x78, 0xF1])


def multicast(build):
    build.inputs.append(Binding("x", 0, (16,), "float16"))
    for place, at in enumerate((0, 512)):
        build.add("load_multicast", [box("dst", "l1", at, (16,)), box("src", "ddr", 0, (16,))], cluster=place, core=1,
                  group=5, sets=[core("load", "store")])  # fmt: skip
        build.add("store", [box("dst", "ddr", 4096 + 64 * place, (16,)), box("src", "l1", at, (16,))],
                  cluster=place, core=1, waits=[core("load", "store")])  # fmt: skip
        build.outputs.append(Binding(f"y{place}", 4096 + 64 * place, (16,), "float16"))
    return build.build()


def test_a_multicast_fills_every_receiver(build):
    x = np.arange(16, dtype=np.float16)
    outputs = simulate(multicast(build), {"x": x}).outputs
    EXACT(outputs["y0"], x)
    EXACT(outputs["y1"], x)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "no inputs were given; give one array for each input, or values=False"),
        ({}, "the input 'x' is missing; give an array for it"),
        ({"x": np.zeros(16, np.float16), "z": 1}, "the model has no input 'z'; its inputs are x"),
        ({"x": np.zeros(16, np.float32)}, "the input 'x' is float32, the model takes float16; convert the array"),
        (
            {"x": np.zeros((4, 4), np.float16)},
            r"the input 'x' has shape \[4, 4\], the model takes \[16\]; give that shape",
        ),
    ],
)
def test_inputs_that_do_not_fit(build, inputs, message):
    with pytest.raises(UserError, match=message):
        simulate(multicast(build), inputs)


def host_program(build, op, shape_out, dtype_out="float32"):
    """x (ddr 0) -> host step -> h (ddr 4096) -> relu on the NPU -> y."""
    size = int(np.prod(shape_out))
    node = helper.make_node(op, ["x"], ["h"])
    graph = helper.make_graph(
        [node], "step", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("h", helper.np_dtype_to_tensor_dtype(np.dtype(dtype_out)), None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    x, h = Binding("x", 0, (4, 8), "float32"), Binding("h", 4096, shape_out, dtype_out)
    build.host_steps.append(HostStep(0, op, "n", (x,), (h,), size, "no instruction", model.SerializeToString()))
    build.inputs.append(x)
    build.outputs += [Binding("y", 8192, (size,), "float32"), h]
    build.add("load", [box("dst", "l1", 0, (size,), "float32"), box("src", "ddr", 4096, (size,), "float32")],
              sets=[core("load", "vector")])  # fmt: skip
    build.add("relu", [box("dst", "l1", 4096, (size,), "float32"), box("src", "l1", 0, (size,), "float32")],
              waits=[core("load", "vector")], sets=[core("vector", "store")])  # fmt: skip
    build.add("store", [box("dst", "ddr", 8192, (size,), "float32"), box("src", "l1", 4096, (size,), "float32")],
              waits=[core("vector", "store")])  # fmt: skip
    return build.build()


def test_a_host_step_runs_between_segments(build):
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    result = simulate(host_program(build, "Sin", (4, 8)), {"x": x})
    np.testing.assert_allclose(result.outputs["h"], np.sin(x), rtol=1e-6)
    EXACT(result.outputs["y"], np.maximum(result.outputs["h"], 0).ravel())
    assert len(result.timing.host) == 1
    assert result.timing.host[0].end == 1000 + 256 / 16 + 32 / 4


def test_a_host_step_whose_shape_depends_on_values(build):
    with pytest.raises(
        UserError, match=r"\[host step NonZero n\] 'h' has shape \[2, 0\], \[2, 32\] was expected; compile"
    ):
        simulate(host_program(build, "NonZero", (2, 32), "int32"), {"x": np.zeros((4, 8), np.float32)}, check=False)


def test_a_host_step_that_fails(build):
    program = host_program(build, "Sin", (4, 8))
    bad = onnx.load_model_from_string(program.host_steps[0].model)
    bad.graph.node[0].input[0] = "nowhere"
    step = replace(program.host_steps[0], model=bad.SerializeToString())
    with pytest.raises(UserError, match=r"\[host step Sin n\] the operator failed: .*; check the model's inputs"):
        simulate(replace(program, host_steps=(step,)), {"x": np.zeros((4, 8), np.float32)})


def test_a_host_step_that_reads_what_nothing_wrote(build):
    program = host_program(build, "Sin", (4, 8))
    step = replace(program.host_steps[0], inputs=(Binding("x", 16384, (4, 8), "float32"),))
    with pytest.raises(UserError, match="the input of host step Sin n 'x' has bytes that nothing wrote"):
        simulate(replace(program, host_steps=(step,)), {"x": np.zeros((4, 8), np.float32)})


def pipeline(build, tiles=12):
    """relu(x) tile by tile through two buffers on each side; every flag is needed."""
    rows = 8
    build.inputs.append(Binding("x", 0, (tiles * rows, 16), "float16"))
    build.outputs.append(Binding("y", 65536, (tiles * rows, 16), "float16"))
    for i in range(tiles):
        k, first, last = i % 2, i < 2, i >= tiles - 2
        near, far, at = 1024 * k, 4096 + 1024 * k, 256 * i
        shape = (rows, 16)
        build.add("load", [box("dst", "l1", near, shape), box("src", "ddr", at, shape)],
                  waits=[] if first else [core("vector", "load", k)], sets=[core("load", "vector", k)])  # fmt: skip
        build.add("relu", [box("dst", "l1", far, shape), box("src", "l1", near, shape)],
                  waits=[core("load", "vector", k)] + ([] if first else [core("store", "vector", k)]),
                  sets=[core("vector", "store", k)] + ([] if last else [core("vector", "load", k)]))  # fmt: skip
        build.add("store", [box("dst", "ddr", 65536 + at, shape), box("src", "l1", far, shape)],
                  waits=[core("vector", "store", k)], sets=[] if last else [core("store", "vector", k)])  # fmt: skip
    x = np.random.default_rng(1).normal(size=(tiles * rows, 16)).astype(np.float16)
    return build.build(ddr_bytes=131072), x


def test_race_mode_gives_the_same_bits_and_overlaps(build):
    program, x = pipeline(build)
    plain = simulate(program, {"x": x})
    EXACT(plain.outputs["y"], np.maximum(x, 0))
    cycles = set()
    for seed in range(20):
        raced = simulate(program, {"x": x}, race_seed=seed, check=seed == 0)
        EXACT(raced.outputs["y"], plain.outputs["y"])
        assert raced.overlap > 1.3
        cycles.add(raced.cycles)
    assert len(cycles) == 20
    assert min(cycles) > plain.cycles


def test_race_mode_shows_a_missing_flag(build):
    """Without the wait for the buffer to be free, some seed overwrites it too early; the checker needs no seed."""
    program, x = pipeline(build)
    entries = program.entries.copy()
    loads = np.flatnonzero(entries["opcode"] == entries["opcode"][0])
    entries["waits"][loads[4]] = 0
    broken = replace(program, entries=entries)
    with pytest.raises(UserError, match="race: nothing orders entry"):
        simulate(broken, {"x": x})
    wrong = [
        seed for seed in range(20)
        if not np.array_equal(simulate(broken, {"x": x}, race_seed=seed, check=False).outputs["y"], np.maximum(x, 0))
    ]  # fmt: skip
    assert wrong


def test_time_alone_and_values_give_the_same_cycles(build):
    program, x = pipeline(build)
    assert simulate(program, values=False).cycles == simulate(program, {"x": x}).cycles
    assert simulate(program, values=False).outputs is None


def test_the_result_tells_time_and_traffic(build):
    program, x = pipeline(build)
    result = simulate(program, {"x": x})
    assert result.time_ms == pytest.approx(result.cycles / 1e6)
    assert result.traffic["ddr", "read"] == result.traffic["ddr", "written"] == x.nbytes
    assert set(result.busy) == {"load", "store", "move", "matrix", "vector", "scalar", "prefetch"}
    assert result.conflict_cycles == result.timing.conflict_cycles


def test_an_entry_of_no_duration_reads_before_it_writes(build):
    """In place, read early: the value held is that of the operand before the write."""
    program, x = pipeline(build, 2)
    timing = time_program(program)
    for early in (np.ones(len(program), bool), np.zeros(len(program), bool)):
        EXACT(run_values(program, timing, {"x": x}, read_early=early)["y"], np.maximum(x, 0))


@pytest.mark.parametrize(
    ("op", "operands", "message"),
    [
        ("relu", [("dst", "l1", 8, (16,)), ("src", "l1", 64, (16,))], "align"),
        ("relu", [("dst", "l1", 32768 - 32, (32,)), ("src", "l1", 64, (32,))], "32768"),
        ("relu", [("dst", "ddr", 0, (16,)), ("src", "l1", 64, (16,))], "ddr"),
        ("relu", [("dst", "l1", 64, (2, 32)), ("src", "l1", 128, (2, 32))], "overlap|share"),
        ("load", [("dst", "l1", 0, (70000,), "int8"), ("src", "ddr", 64, (70000,), "int8")], "65535"),
    ],
)
def test_illegal_entries_are_refused_before_the_run(build, op, operands, message):
    build.add(op, [box(*o) for o in operands])
    with pytest.raises(UserError, match=rf"entry 0 \({op}\).*({message})"):
        simulate(build.build(), values=False)


def test_a_program_of_nothing(build):
    result = simulate(build.build(), {})
    assert (result.cycles, result.outputs, result.overlap) == (0, {}, 0)


def test_a_program_of_host_steps_alone(build):
    program = host_program(build, "Sin", (4, 8))
    empty = np.zeros(0, program.entries.dtype)
    program = replace(program, entries=empty, outputs=program.outputs[1:])
    x = np.zeros((4, 8), np.float32)
    result = simulate(program, {"x": x})
    EXACT(result.outputs["h"], x)
    assert result.cycles == 1000 + 256 / 16 + 32 / 4


def test_operands_that_meet_in_one_fingerprint_are_noticed(build, monkeypatch):
    program, x = pipeline(build)
    monkeypatch.setattr(memories, "_fingerprint", lambda columns: np.zeros(len(columns), np.uint64))
    with pytest.raises(InternalError, match="two operands have one fingerprint"):
        simulate(program, {"x": x})


def test_an_instruction_without_a_value_is_a_defect(build, monkeypatch):
    program, x = pipeline(build)
    silent = {code: replace(definition, semantics=lambda arrays, attrs: None) for code, definition in BY_CODE.items()
              if definition.semantics is not None}  # fmt: skip
    monkeypatch.setattr(values, "BY_CODE", silent)
    with pytest.raises(InternalError, match="load gives no value"):
        simulate(program, {"x": x})
