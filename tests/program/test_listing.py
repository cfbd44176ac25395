import io
import json
import time

import numpy as np

from dsa_compiler.program.assembler import parse_program
from dsa_compiler.program.listing import listing, listing_lines, write_listing
from dsa_compiler.program.tables import Program
from tests.program.conftest import random_program


def one(line, target="npu-v1"):
    return listing(parse_program(f".target {target}\n{line}\n"))["instructions"][0]


def test_an_entry_is_listed_as_the_design_shows():
    line = (
        "c0.3 load: load_pad dst=l1[96] f16 8x56 :128 src=ddr[0] f16 8x54 pad=[[0,0],[1,1]] value=0.5 "
        "wait core:move>load:3 set core:load>move:3,cluster:9,chip:2 @node=Conv_12 @kernel=conv2d_3 @instance=0"
    )
    assert one(line) == {
        "id": 0, "cluster": 0, "core": 3, "engine": "load", "op": "load_pad", "cost": "simple",
        "operands": [
            {"role": "dst", "scope": "l1", "address": 96, "dtype": "float16", "extents": [8, 56], "strides": [128, 2]},
            {"role": "src", "scope": "ddr", "address": 0, "dtype": "float16", "extents": [8, 54], "strides": [108, 2]},
        ],
        "attrs": {"pad": [[0, 0], [1, 1]], "value": 0.5},
        "waits": ["core:move>load:3"], "sets": ["core:load>move:3", "cluster:9", "chip:2"],
        "node": "Conv_12", "kernel": "conv2d_3", "instance": 0,
    }  # fmt: skip


def test_prefetch_has_no_core_and_empty_fields_are_omitted():
    entry = one("c1 prefetch: prefetch dst=llb[0] u8 64 src=ddr[0] u8 64 @group=2 @segment=1")
    assert (entry["core"], entry["group"], entry["segment"]) == (None, 2, 1)
    assert not {"attrs", "waits", "sets", "node", "kernel", "instance"} & set(entry)


def test_a_barrier_carries_its_queues_and_group():
    entry = one('c0.0 vector: barrier scope="cluster" queues=["vector","prefetch"] @group=3')
    assert entry["attrs"] == {"scope": "cluster", "queues": ["vector", "prefetch"], "group": 3}
    assert entry["group"] == 3 and "cost" not in entry


def test_costs_are_the_words_of_the_design():
    pair = "dst=l1[0] f16 8 src=l1[64] f16 8"
    assert one(f"c0.0 vector: exp {pair}")["cost"] == "transcendental"
    assert one(f"c0.0 vector: cumsum {pair} axis=0")["cost"] == "scan"
    assert one(f"c0.0 vector: slide {pair}")["cost"] == "slide"
    assert one(f"c0.0 vector: topk_merge {pair} src2=l1[128] f16 8 descending=true")["cost"] == "stage"
    product = "dst=l0c[0] f32 16x16 lhs=l0a[0] f16 16x16 rhs=l0b[0] f16 8x16 index=l0b[4096] u8 8x4"
    assert one(f"c0.0 matrix: matmul_sparse {product}", "npu-v2")["attrs"] == {"sparse": True}


def test_int4_has_an_inner_stride_of_one_half():
    entry = one("c0.0 move: move_b dst=l0b[0] i4 4x128 src=l1[0] i4 4x128", "npu-v2")
    assert entry["operands"][0]["strides"] == [64, 0.5]


def test_the_top_level_names_what_ddr_holds(program):
    top = listing(program)
    assert top["target"] == program.target.source
    assert top["macs"] == 12345
    assert top["inputs"] == [{"name": "x", "address": 0, "bytes": 896, "shape": [8, 56], "dtype": "float16"}]
    assert top["outputs"][0]["bytes"] == 4
    assert top["constants"] == [{"address": 8192, "bytes": 100}, {"address": 16384, "bytes": 70}]
    step = top["host_steps"][0]
    assert (step["segment"], step["op"], step["node"]) == (1, "NonMaxSuppression", "nms")
    assert (step["bytes_in"], step["bytes_out"], step["operations"]) == (16, 4, 12)


def test_it_is_strict_json_with_an_entry_a_line(program):
    stream = io.StringIO()
    write_listing(program, stream)

    def refuse(name):
        raise AssertionError(name)

    top = json.loads(stream.getvalue(), parse_constant=refuse)
    assert [e["id"] for e in top["instructions"]] == list(range(len(program)))
    lines = stream.getvalue().splitlines()
    assert sum(line.startswith('{"id"') for line in lines) == len(program)
    assert any(e.get("attrs", {}).get("value") == "inf" for e in top["instructions"])


def test_an_empty_program_is_listed():
    assert listing(parse_program(".target npu-edge\n"))["instructions"] == []


def test_three_hundred_thousand_entries_take_seconds():
    part = random_program(2, 3000)
    times = 100
    entries = np.tile(part.entries, times)
    program = Program(part.target, entries, part.operands, part.flags, part.attrs, part.nodes, part.kernels)
    begin = time.process_time()
    count = sum(1 for _ in listing_lines(program))
    assert count == len(entries) + 8
    assert time.process_time() - begin < 40
