"""Each way in which a program is illegal, and the message that it gets."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from dsa_compiler.errors import UserError
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.isa.validate import validate_program
from dsa_compiler.program.builder import Flag, Operand, ProgramBuilder
from dsa_compiler.target import Target, load_target, target_from_dict

V1, V2, EDGE = load_target("npu-v1"), load_target("npu-v2"), load_target("npu-edge")


def at(role, place, dtype="float16", extents=(64,), strides=None):
    """An operand written short: `ddr+64`."""
    scope, _, address = place.partition("+")
    return Operand(role, scope, int(address or 0), dtype, extents, strides)


def refused(message: str, program) -> None:
    """The program gets exactly that message, from its entry on."""
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        validate_program(program)
    assert caught.value.where == "validate"
    assert caught.value.action


def one(op, *operands, target: Target = V1, **more):
    builder = ProgramBuilder(target)
    builder.add(op, operands, **more)
    return builder.build()


LOAD = (at("dst", "l1"), at("src", "ddr"))


def changed(program, table: str, row: int = 0, **fields):
    """A program with fields of one row of a table overwritten."""
    array = getattr(program, table).copy()
    for name, value in fields.items():
        array[name][row] = value
    return dataclasses.replace(program, **{table: array})


def test_legal_programs():
    validate_program(ProgramBuilder(V1).build())
    validate_program(one("load", *LOAD))
    flags = [Flag("core", 31, "move", "load"), Flag("cluster", 63), Flag("chip", 63), Flag("core", 0, "scalar", "load")]
    validate_program(one("load", *LOAD, waits=flags, sets=[Flag("core", 0, "load", "scalar")] * 4))
    validate_program(one("set", engine="prefetch", sets=[Flag("chip", 0)]))


# tables and queues


@pytest.mark.parametrize(
    ("table", "fields", "message"),
    [
        ("entries", {"opcode": 0xFFFF}, "entry 0 (unknown): opcode 65535 does not exist"),
        ("entries", {"attrs": 7}, "entry 0 (load): attributes 7 of 1 do not exist"),
        ("entries", {"attrs": -1}, "entry 0 (load): attributes -1 of 1 do not exist"),
        ("entries", {"operand": 1}, "entry 0 (load): operands 1 to 2 lie outside the 2 operands"),
        ("entries", {"operand": -1}, "entry 0 (load): operands -1 to 0 lie outside the 2 operands"),
        ("entries", {"waits": 1}, "entry 0 (load): waits 0 to 0 lie outside the 0 flags"),
        ("entries", {"sets": 2, "set": 3}, "entry 0 (load): sets 3 to 4 lie outside the 0 flags"),
        ("entries", {"engine": 9}, "entry 0 (load): engine 9 does not exist"),
        ("entries", {"engine": 4}, "entry 0 (load): stands in the vector queue, but is a load instruction"),
        ("entries", {"cluster": 4}, "entry 0 (load): cluster 4 does not exist, npu-v1 has 4"),
        ("entries", {"cluster": -1}, "entry 0 (load): cluster -1 does not exist, npu-v1 has 4"),
        ("entries", {"core": 8}, "entry 0 (load): core 8 does not exist, a cluster has 8"),
        ("entries", {"core": -1}, "entry 0 (load): core -1 does not exist, a cluster has 8"),
        ("entries", {"group": 5}, "entry 0 (load): names group 5, but has no members elsewhere"),
        ("operands", {"role": 44}, "entry 0 (load) operand: role 44 does not exist"),
        ("operands", {"scope": 6}, "entry 0 (load) dst: scope 6 does not exist"),
        ("operands", {"dtype": 11}, "entry 0 (load) dst: dtype 11 does not exist"),
        ("operands", {"rank": 0}, "entry 0 (load) dst: rank is 0, 1 to 3 are allowed"),
        ("operands", {"rank": 4}, "entry 0 (load) dst: rank is 4, 1 to 3 are allowed"),
    ],
)
def test_tables(table, fields, message):
    refused(message, changed(one("load", *LOAD), table, **fields))


def test_prefetch_queues():
    copy = (at("dst", "llb"), at("src", "ddr"))
    validate_program(one("prefetch", *copy))
    refused("entry 0 (prefetch): core is 0: a prefetch engine belongs to a cluster",
            changed(one("prefetch", *copy), "entries", core=0))  # fmt: skip
    refused("entry 0 (prefetch): npu-edge has no prefetch engine", one("prefetch", *copy, target=EDGE))
    refused("entry 0 (set): npu-edge has no prefetch engine", one("set", engine="prefetch", target=EDGE))


# features


@pytest.mark.parametrize(
    ("op", "target", "feature"),
    [
        ("load_transpose", V2, "transpose_load"), ("load_multicast", EDGE, "multicast"),
        ("load_pad_multicast", EDGE, "multicast"), ("matmul_sparse", V1, "sparse_2_4"),
    ],
)  # fmt: skip
def test_features(op, target, feature):
    refused(f"entry 0 ({op}): {target.name} lacks the feature {feature}", one(op, target=target))


def test_img2col_is_a_feature():
    data = {**V1.source, "features": {**V1.source["features"], "img2col_move": False}}
    refused("entry 0 (img2col): npu-v1 lacks the feature img2col_move", one("img2col", target=target_from_dict(data)))


# flags


@pytest.mark.parametrize(
    ("waits", "sets", "message"),
    [
        ([Flag("cluster", 1)] * 5, [], "entry 0 (load): has 5 waits, at most 4 are allowed"),
        ([], [Flag("cluster", 1)] * 5, "entry 0 (load): has 5 sets, at most 4 are allowed"),
        ([Flag("core", 32, "move", "load")], [], "entry 0 (load) wait: core flag 32 does not exist, npu-v1 has 32"),
        ([], [Flag("cluster", 64)], "entry 0 (load) set: cluster flag 64 does not exist, npu-v1 has 64"),
        ([Flag("chip", -1)], [], "entry 0 (load) wait: chip flag -1 does not exist, npu-v1 has 64"),
        (
            [Flag("core", 1, "load", "load")],
            [],
            "entry 0 (load) wait: a core flag joins two different engines of a core",
        ),
        (
            [Flag("core", 1, "prefetch", "load")],
            [],
            "entry 0 (load) wait: a core flag joins two different engines of a core",
        ),
        ([Flag("core", 1, "load", "move")], [], "entry 0 (load) wait: core flag load>move is none that load can wait"),
        ([], [Flag("core", 1, "move", "load")], "entry 0 (load) set: core flag move>load is none that load can set"),
        (
            [],
            [Flag("core", 1, "move", "vector")],
            "entry 0 (load) set: core flag move>vector is none that load can set",
        ),
    ],
)
def test_flags(waits, sets, message):
    refused(message, one("load", *LOAD, waits=waits, sets=sets))


def test_flags_of_other_parts():
    refused("entry 0 (load) set: chip flag 0 does not exist, npu-edge has 0",
            one("load", *LOAD, target=EDGE, sets=[Flag("chip", 0)]))  # fmt: skip
    refused("entry 0 (prefetch) set: a prefetch engine has no core flags",
            one("prefetch", at("dst", "llb"), at("src", "ddr"), sets=[Flag("core", 0, "load", "move")]))  # fmt: skip
    program = one("load", *LOAD, sets=[Flag("chip", 0)])
    refused("entry 0 (load) set: flag kind 3 does not exist", changed(program, "flags", kind=3))


# attributes

PAIR = (at("dst", "l1"), at("src", "l1+4096"))


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        ("relu", {"value": 1}, "entry 0 (relu): attribute 'value' is unknown, allowed are none"),
        ("add_scalar", {"alpha": 1}, "entry 0 (add_scalar): attribute 'alpha' is unknown, allowed are value"),
        ("add_scalar", {}, "entry 0 (add_scalar): attribute 'value' is missing"),
        ("add_scalar", {"value": "many"},
         "entry 0 (add_scalar): attribute 'value' is 'many', a number (written with a point if it exceeds 32 bits)"),
        ("add_scalar", {"value": True},
         "entry 0 (add_scalar): attribute 'value' is True, a number (written with a point if it exceeds 32 bits)"),
        ("shift_left_scalar", {"value": 1.5},
         "entry 0 (shift_left_scalar): attribute 'value' is 1.5, a "
         "whole number from -2147483648 to 2147483647 is needed"),
        ("add_scalar", {"value": 2**31}, f"entry 0 (add_scalar): attribute 'value' is {2**31}, a number (written with"),
        ("cumsum", {"axis": -1},
         "entry 0 (cumsum): attribute 'axis' is -1, a whole number from 0 to 2147483647 is needed"),
        ("cumsum", {"axis": 2**63},
         f"entry 0 (cumsum): attribute 'axis' is {2**63}, a whole number from 0 to 2147483647 is needed"),
        ("reduce_sum", {"reduce": "all"}, "attribute 'reduce' is 'all', one of row, column, plane is needed"),
        ("reduce_sum", {"reduce": ["row"]}, "attribute 'reduce' is ['row'], one of row, column, plane is needed"),
        ("topk_merge", {"descending": 1}, "entry 0 (topk_merge): attribute 'descending' is 1, true or false is needed"),
        ("move_a_transpose", {"transpose": False}, "attribute 'transpose' is False, true is needed"),
        ("load_pad", {"pad": 3, "value": 0}, "entry 0 (load_pad): attribute 'pad' is 3, a list is needed"),
        ("load_pad", {"pad": [[1, -1]], "value": 0},
         "attribute 'pad' is [[1, -1]], a list of pairs of whole numbers of at least 0 is needed"),
        ("load_pad", {"pad": [[1]], "value": 0},
         "attribute 'pad' is [[1]], a list of pairs of whole numbers of at least 0"),
        ("pool_max", {"kernel": [3], "stride": [1, 1], "dilation": [1, 1], "pad": [0] * 4, "taps": 9},
         "attribute 'kernel' is [3], a list of 2 whole numbers of at least 1 is needed"),
        ("pool_max", {"kernel": [3, 0], "stride": [1, 1], "dilation": [1, 1], "pad": [0] * 4, "taps": 9},
         "attribute 'kernel' is [3, 0], a list of 2 whole numbers of at least 1 is needed"),
        ("barrier", {"scope": "core", "queues": []}, "attribute 'scope' is 'core', one of cluster, chip is needed"),
        ("barrier", {"scope": "chip", "queues": [1]}, "attribute 'queues' is [1], a list of names is needed"),
    ],
)  # fmt: skip
def test_attributes(op, attrs, message):
    engine = "load" if OPCODES[op].engine == "control" else None
    refused(message, one(op, attrs=attrs, engine=engine))


def test_attributes_that_are_allowed():
    for value in (1, 1.5, "inf", "-inf", "nan"):
        validate_program(one("add_scalar", *PAIR, attrs={"value": value}))


# operands


@pytest.mark.parametrize(
    ("op", "operands", "message"),
    [
        ("load", LOAD[:1], "entry 0 (load): lacks operand src"),
        ("matmul", (), "entry 0 (matmul): lacks operand dst, lhs, rhs"),
        ("load", (*LOAD, at("bias", "l1")), "entry 0 (load) bias: is no operand of this instruction"),
        ("load", (*LOAD, at("src", "ddr")), "entry 0 (load): has 3 operands, at most 2 are allowed"),
        ("load", (at("dst", "l0a"), LOAD[1]), "entry 0 (load) dst: scope is l0a, load reaches l1"),
        ("load", (LOAD[0], at("src", "l1+4096")), "entry 0 (load) src: scope is l1, load reaches ddr, llb"),
        ("move_a", (at("dst", "l0b"), at("src", "l1")), "entry 0 (move_a) dst: scope is l0b, move_a reaches l0a"),
        ("add", (at("dst", "ddr"), at("src", "l1"), at("src2", "l1")),
         "entry 0 (add) dst: scope is ddr, add reaches l1, l0c"),
        ("bitwise_not", PAIR,
         "entry 0 (bitwise_not) src: dtype is float16, allowed are int32, int16, int8, uint8, bool"),
        ("load", (at("dst", "l1", "int4"), at("src", "ddr", "int4")),
         "entry 0 (load) dst: dtype int4 is none of npu-v1's"),
        ("matmul", (at("dst", "l0c", "float32"), at("lhs", "l0a"), at("rhs", "l0b")),
         "entry 0 (matmul) dst: rank is 1, allowed are 2"),
        ("slide", (at("dst", "l1", "int8", (2, 2, 32)), at("src", "l1+512", "int8", (2, 2, 32))),
         "entry 0 (slide) dst: rank is 3, allowed are 1, 2"),
        ("load", (at("dst", "l1", extents=(0,)), LOAD[1]), "entry 0 (load) dst: extents are 0, 1 to 65535 are allowed"),
        ("load", (at("dst", "l1", extents=(2, 65536)), LOAD[1]), "entry 0 (load) dst: extents are 2x65536, 1 to 65535"),
        ("load", (LOAD[0], at("src", "ddr", extents=(2, 32), strides=(-64, 2))),
         "entry 0 (load) src: stride is -64, 0 to 16777215 are allowed"),
        ("load", (LOAD[0], at("src", "ddr", extents=(2, 32), strides=(16777216, 2))),
         "entry 0 (load) src: stride is 16777216, 0 to 16777215 are allowed"),
        ("load", (LOAD[0], at("src", "ddr", strides=(4,))),
         "entry 0 (load) src: innermost stride is 4, an element has 2 bytes"),
        ("load", (LOAD[0], at("src", "ddr", strides=(0,))),
         "entry 0 (load) src: innermost stride is 0, an element has 2 bytes"),
        ("neg", (at("dst", "l1", strides=(0,)), at("src", "l1+4096")),
         "entry 0 (neg) dst: innermost stride is 0, an element has 2 bytes"),
        ("neg", (at("dst", "l1", extents=(2, 16), strides=(0, 2)), at("src", "l1+4096", extents=(2, 16))),
         "entry 0 (neg) dst: stride is 0: a result cannot repeat itself"),
        ("load", (at("dst", "l1+16"), LOAD[1]), "entry 0 (load) dst: address is 16, a multiple of 32 is needed"),
        ("load", (LOAD[0], at("src", "ddr+3")), "entry 0 (load) src: address is 3, a multiple of 2 is needed"),
        ("matmul", (at("dst", "l0c+32", "float32", (16, 16)), at("lhs", "l0a", extents=(16, 16)),
                    at("rhs", "l0b", extents=(16, 16))),
         "entry 0 (matmul) dst: address is 32, a multiple of 64 is needed"),
        ("neg", (at("dst", "l1", extents=(2, 24)), at("src", "l1+4096", extents=(2, 24))),
         "entry 0 (neg) dst: stride is 48, a multiple of 32 is needed"),
        ("load", (LOAD[0], at("src", "ddr", extents=(2, 32), strides=(65, 2))),
         "entry 0 (load) src: stride is 65, a multiple of 2 is needed"),
        ("slide", (at("dst", "l1"), at("src", "l1+4097")),
         "entry 0 (slide) src: address is 4097, a multiple of 2 is needed"),
        ("load", (at("dst", "l1+1310656"), LOAD[1]),
         "entry 0 (load) dst: bytes 1310656 to 1310783 leave l1 of 1310720"),
        ("load", (at("dst", "l1+-32"), LOAD[1]), "entry 0 (load) dst: bytes -32 to 95 leave l1 of 1310720"),
        ("load", (at("dst", "l1", extents=(2, 32), strides=(1310720, 2)), LOAD[1]),
         "entry 0 (load) dst: bytes 0 to 1310783 leave l1 of 1310720"),
        ("neg", (at("dst", "l1", extents=(2, 32), strides=(32, 2)), at("src", "l1+4096", extents=(2, 32))),
         "entry 0 (neg) dst: rows of 2x32 overlap each other"),
        ("neg", (at("dst", "l1", extents=(2, 4, 32), strides=(64, 64, 2)), at("src", "l1+4096", extents=(2, 4, 32))),
         "entry 0 (neg) dst: rows of 2x4x32 overlap each other"),
    ],
)  # fmt: skip
def test_operands(op, operands, message):
    refused(message, one(op, *operands))


def test_scopes_of_the_part():
    refused("entry 0 (load) src: npu-edge has no llb", one("load", LOAD[0], at("src", "llb"), target=EDGE))


def test_int4_rows_are_even():
    operands = (at("dst", "l1", "int4", (2, 5), (64, 1)), at("src", "ddr", "int4", (2, 5), (64, 1)))
    refused("entry 0 (load) dst: extents are 2x5: rows of int4 are even", one("load", *operands, target=V2))


def test_operands_that_are_allowed():
    """Broadcasts, repeated rows, rows from any element of ddr, exempt bases and strides."""
    rows = at("dst", "l1", extents=(4, 32), strides=(64, 2))
    validate_program(one("load", rows, at("src", "ddr+6", extents=(4, 32), strides=(70, 2))))
    validate_program(one("load", rows, at("src", "ddr+6", extents=(4, 32), strides=(0, 2))))
    validate_program(one("neg", rows, at("src", "l1+4096", extents=(4, 32), strides=(64, 0))))
    validate_program(one("slide", rows, at("src", "l1+4098", extents=(4, 32), strides=(96, 2))))
    scalar = [at(r, f"l1+{a}", "int32", (3,)) for r, a in (("dst", 4), ("src", 20), ("src2", 36))]
    validate_program(one("s_add", *scalar, attrs={"ops": 3, "control": 0}))
    pixels = at("src", "l1", extents=(4, 4, 12), strides=(104, 24, 2))
    window = {"kernel": [1, 1], "stride": [1, 1], "dilation": [1, 1], "pad": [0] * 4, "zero_point": 0}
    validate_program(one("img2col", at("dst", "l0a", extents=(16, 12), strides=(32, 2)), pixels, attrs=window))
    odd = at("src", "l1", extents=(4, 4, 12), strides=(100, 24, 2))
    refused("entry 0 (img2col) src: stride is 100, a multiple of 8 is needed",
            one("img2col", at("dst", "l0a", extents=(16, 12), strides=(32, 2)), odd, attrs=window))  # fmt: skip


# shapes

M = {"dst": ("l0c", "float32", (16, 32)), "lhs": ("l0a", "float16", (16, 64)), "rhs": ("l0b", "float16", (64, 32))}
S = {**M, "rhs": ("l0b", "float16", (32, 32)), "index": ("l0b+32768", "uint8", (16, 32), (64, 1))}
P = {"dst": ("l1", "float16", (6, 6, 16)), "src": ("l1+65536", "float16", (8, 8, 16))}
WINDOW = {"kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "pad": [0] * 4}
D = {**P, "taps": ("l1+131072", "float16", (3, 3, 16))}
I = {"dst": ("l0a", "float16", (36, 144), (288, 2)), "src": ("l1", "float16", (8, 8, 16))}
X = {"dst": ("l1", "float16", (32, 64)), "src": ("l1+65536", "float16", (64, 32))}
G = {"dst": ("l1", "float16", (4, 64)), "src": ("ddr", "float16", (9, 64)), "index": ("l1+65536", "int32", (4,))}
R = {"dst": ("l1", "float16", (32, 1), (32, 2)), "src": ("l1+65536", "float16", (32, 64))}
T = {"dst": ("l1", "int32", (64,)), "src": ("l1+4096", "int32", (64,))}
TT = {**T, "src2": ("l1+8192", "int32", (64,))}
C = {"dst": ("l1", "int32", (4,)), "src": ("l1+64", "int32", (4,)), "src2": ("l1+128", "int32", (4,))}
CI = {"dst": ("l1", "int32", (4,)), "src": ("l1+64", "int32", (9,)), "index": ("l1+128", "int32", (4,))}


@pytest.mark.parametrize(
    ("op", "base", "change", "attrs", "message"),
    [
        ("load", T, {"src": ("ddr", "int32", (63,))}, {},
         "src is 63, dst is 64: they hold different numbers of elements"),
        ("load", T, {"src": ("ddr", "float32", (64,))}, {},
         "src is float32, dst is int32: the instruction does not convert"),
        ("prefetch", T, {"src": ("ddr", "int32", (64,)), "dst": ("ddr+512", "int32", (64,))}, {},
         "src and dst are both in ddr: prefetch copies between ddr and llb"),
        ("load_pad", T, {"src": ("ddr", "int32", (62,))}, {"pad": [[1, 0]], "value": 0},
         "dst is 64, src 62 with its padding is 63"),
        ("load_pad", T, {"src": ("ddr", "int32", (62,))}, {"pad": [[1, 1], [0, 0]], "value": 0},
         "pad has 2 pairs, src has rank 1"),
        ("transpose", X, {"dst": ("l1", "float16", (64, 32))}, {}, "src is 64x32, dst is 64x32: dst must be 32x64"),
        ("load_gather", G, {"dst": ("l1", "float16", (5, 64))}, {}, "dst is 5x64: 4 indices of rows of 64 need 4x64"),
        ("load_gather", G, {"dst": ("l1", "float16", (4, 32))}, {}, "dst is 4x32: 4 indices of rows of 64 need 4x64"),
        ("img2col", I, {"dst": ("l0a", "float16", (35, 144), (288, 2))}, {**WINDOW, "zero_point": 0},
         "dst is 35x144, the window grid gives 36x144"),
        ("img2col", I, {"src": ("l1", "float16", (2, 8, 16))}, {**WINDOW, "zero_point": 0},
         "a window of 3x3 does not fit in src 2x8x16 with its padding"),
        ("img2col", I, {"src": ("l1", "float16", (8, 8, 14), (256, 32, 2))}, {**WINDOW, "zero_point": 0},
         "src has pixels of 28 bytes: a multiple of 8 is needed"),
        ("matmul", M, {"rhs": ("l0b", "float16", (63, 32))}, {}, "lhs is 16x64, rhs is 63x32: rhs needs 64 rows"),
        ("matmul", M, {"dst": ("l0c", "float32", (16, 16))}, {}, "the result is 16x16, the product is 16x32"),
        ("matmul", M, {"rhs": ("l0b", "bfloat16", (64, 32))}, {},
         "lhs is float16, rhs is bfloat16: only the signedness of 8-bit integers may differ"),
        ("matmul", M, {"dst": ("l0c", "int32", (16, 32))}, {},
         "dst is int32: products of float16 accumulate in float32"),
        ("matmul_bias", M, {"bias": ("l0b+32768", "float32", (2, 32))}, {}, "bias is 2x32, the product needs 1x32"),
        ("matmul_bias", M, {"bias": ("l0b+32768", "int32", (1, 32))}, {},
         "bias is int32: products of float16 accumulate in float32"),
        ("matmul_sparse", S, {"lhs": ("l0a", "float16", (16, 62), (128, 2))}, {"sparse": True},
         "lhs is 16x62: a sparse product needs k in whole groups of 4"),
        ("matmul_sparse", S, {"rhs": ("l0b", "float16", (64, 32))}, {"sparse": True},
         "lhs is 16x64, rhs is 64x32: rhs needs 32 rows"),
        ("matmul_sparse", S, {"index": ("l0b+32768", "uint8", (8, 32), (64, 1))}, {"sparse": True},
         "index is 8x32, the product needs 16x32"),
        ("pool_max", P, {"dst": ("l1", "float16", (6, 5, 16))}, {**WINDOW, "taps": 9},
         "the result is 6x5x16, the window grid gives 6x6x16"),
        ("pool_max", P, {"src": ("l1+65536", "float16", (8, 2, 16))}, {**WINDOW, "taps": 9},
         "a window of 3x3 does not fit in src 8x2x16 with its padding"),
        ("pool_max", P, {}, {**WINDOW, "taps": 8}, "taps is 8, a kernel of 3x3 has 9"),
        ("depthwise", D, {"taps": ("l1+131072", "float16", (3, 3, 32))}, {**WINDOW, "taps": 9, "macs": True},
         "taps is 3x3x32, the window needs 3x3x16"),
        ("reduce_sum", R, {}, {"reduce": "column"}, "dst is 32x1, the reduction of 32x64 is 1x64"),
        ("reduce_sum", R, {}, {"reduce": "plane"}, "src has rank 2: no plane reduction"),
        ("cumsum", T, {}, {"axis": 1}, "axis is 1, src has rank 1"),
        ("cumsum", T, {"src": ("l1+4096", "int32", (63,))}, {"axis": 0}, "src is 63, dst is 64: extents must agree"),
        ("add", TT, {"src2": ("l1+8192", "int32", (32,))}, {}, "src2 is 32, dst is 64: extents must agree"),
        ("interleave", TT, {}, {}, "dst is 64, interleaved sources are 128"),
        ("interleave", TT, {"src2": ("l1+8192", "int32", (32,))}, {}, "src is 64, src2 is 32: extents must agree"),
        ("deinterleave", T, {}, {"phase": 0}, "src is 64, dst is 64: dst must have half of src's innermost extent"),
        ("deinterleave", T, {}, {"phase": 2}, "phase is 2: 0 or 1"),
        ("sort_stage", T, {}, {"distance": 3, "direction": 0}, "distance is 3: a power of two is needed"),
        ("sort_stage", T, {}, {"distance": 64, "direction": 0},
         "src has rows of 64: distance 64 needs whole pairs of 128"),
        ("sort_stage", T, {}, {"distance": 2, "direction": 2},
         "direction is 2: 0 or a power of two of at least 4 is needed"),
        ("sort_stage", T, {}, {"distance": 2, "direction": 4, "payload": True},
         "src is 64: with a payload it is two rows"),
        ("sort_stage", T, {"src": ("l1+4096", "int32", (32,))}, {"distance": 2, "direction": 4},
         "src is 32, dst is 64"),
        ("topk_merge", TT, {"dst": ("l1", "int32", (129,))}, {"descending": True}, "dst keeps 129 of 128"),
        ("topk_merge", TT, {"dst": ("l1", "int32", (1, 64))}, {"descending": True},
         "src is 64, src2 is 64, dst is 1x64: outer extents must agree"),
        ("topk_merge", TT, {}, {"descending": True, "payload": True},
         "src is 64: with a payload it is two rows, keys and payload"),
        ("lookup", T, {"src": ("l1+4096", "int32", (63,)), "table": ("l1+8192", "int32", (9,))}, {},
         "src is 63, dst is 64: extents must agree"),
        ("s_add", C, {}, {"ops": 3, "control": 0}, "ops is 3, 4 elements need as many"),
        ("s_load", CI, {}, {"ops": 3, "control": 0}, "ops is 3, 4 elements need as many"),
        ("s_load", CI, {"dst": ("l1", "int32", (5,))}, {"ops": 9, "control": 0},
         "index is 4: neither src nor dst has an element for each"),
    ],
)  # fmt: skip
def test_shapes(op, base, change, attrs, message):
    shapes = {**base, **change}
    operands = [at(role, *shapes[role]) for role in (o.role for o in OPCODES[op].operands) if role in shapes]
    target = V2 if "sparse" in op else V1
    refused(f"entry 0 ({op}): {message}", one(op, *operands, attrs=attrs, target=target))


PRODUCT = (
    at("dst", "l0c", "float32", (16, 32)),
    at("lhs", "l0a", extents=(16, 64)),
    at("rhs", "l0b", extents=(64, 32)),
)


@pytest.mark.parametrize(("name", "value"), [("m", 16), ("n", 32), ("k", 64)])
def test_matrix_limits(name, value):
    validate_program(one("matmul", *PRODUCT))
    data = {**V1.source, "limits": {**V1.source["limits"], f"matrix_{name}": value - 1}}
    refused(f"entry 0 (matmul): {name} is {value}, at most {value - 1} is allowed",
            one("matmul", *PRODUCT, target=target_from_dict(data)))  # fmt: skip


def test_matrix_needs_a_unit_of_the_dtype():
    data = {**V1.source, "engine": {**V1.source["engine"], "matrix": {"startup": 16, "unit": {"int8": [16, 16, 16]}}}}
    refused("entry 0 (matmul): the matrix engine of npu-v1 has no unit for float16",
            one("matmul", *PRODUCT, target=target_from_dict(data)))  # fmt: skip


# overlap


def test_overlap():
    refused(
        "entry 0 (neg) src: bytes 64 to 191 overlap those of the result, 0 to 127",
        one("neg", at("dst", "l1"), at("src", "l1+64")),
    )
    refused("entry 0 (add) src2: bytes 32 to 159 overlap those of the result, 0 to 127",
            one("add", at("dst", "l1"), at("src", "l1"), at("src2", "l1+32")))  # fmt: skip
    other = (at("dst", "l1", "float16", (64,)), at("src", "l1", "float32", (64,)))
    refused("entry 0 (neg) src: bytes 0 to 255 overlap those of the result, 0 to 127", one("neg", *other))
    rows = at("dst", "l1", extents=(4, 32), strides=(128, 2))
    shifted = at("src", "l1+96", extents=(4, 32), strides=(128, 2))
    refused("entry 0 (neg) src: bytes 96 to 543 overlap those of the result, 0 to 447", one("neg", rows, shifted))


def test_what_does_not_overlap():
    validate_program(one("neg", at("dst", "l1"), at("src", "l1")))
    validate_program(one("neg", at("dst", "l1"), at("src", "l1+128")))
    validate_program(one("neg", at("dst", "l1"), at("src", "l0c")))
    validate_program(one("copy", at("dst", "l1", "float16"), at("src", "l1", "bfloat16")))
    rows = at("dst", "l1", extents=(4, 32), strides=(128, 2))
    validate_program(one("neg", rows, at("src", "l1+64", extents=(4, 32), strides=(128, 2))))
    planes = at("dst", "l1", extents=(2, 4, 16), strides=(1024, 128, 2))
    validate_program(one("neg", planes, at("src", "l1+32", extents=(2, 4, 16), strides=(1024, 128, 2))))


# groups


def test_groups():
    refused("entry 0 (load_multicast): names no group", one("load_multicast", *LOAD))
    refused("entry 0 (barrier): names no group", one("barrier", engine="load", attrs={"scope": "chip", "queues": []}))
    other = (LOAD[0], at("src", "ddr+64"))
    padded = {"pad": [[0, 0]], "value": 0}

    def group(*members):
        builder = ProgramBuilder(V1)
        for op, operands, cluster, core, attrs in members:
            builder.add(op, operands, cluster=cluster, core=core, group=3, attrs=attrs)
        return builder.build()

    validate_program(
        group(("load_multicast", LOAD, 0, 0, {}), ("load_multicast", (at("dst", "l1+64"), LOAD[1]), 1, 0, {}))
    )
    refused("entry 1 (load_pad_multicast): is another instruction than the rest of group 3",
            group(("load_multicast", LOAD, 0, 0, {}), ("load_pad_multicast", LOAD, 0, 1, padded)))  # fmt: skip
    refused("entry 1 (load_multicast): reads another source than the rest of group 3",
            group(("load_multicast", LOAD, 0, 0, {}), ("load_multicast", other, 0, 1, {})))  # fmt: skip
    near = (LOAD[0], at("src", "llb"))
    validate_program(group(("load_multicast", near, 1, 0, {}), ("load_multicast", near[::-1], 1, 1, {})))
    refused("entry 1 (load_multicast): reads another cluster's llb than the rest of group 3",
            group(("load_multicast", near, 0, 0, {}), ("load_multicast", near, 1, 0, {})))  # fmt: skip
    refused("entry 0 (load_multicast): is one of two receivers in one queue of group 3",
            group(("load_multicast", LOAD, 0, 0, {}), ("load_multicast", LOAD, 0, 0, {})))  # fmt: skip


# many entries


def test_the_number_of_the_entry_is_named():
    builder = ProgramBuilder(V1)
    for i in range(100):
        builder.add("load", (at("dst", f"l1+{128 * i}"), at("src", "ddr", extents=(63 if i == 77 else 64,))))
    refused("entry 77 (load): src is 63, dst is 64", builder.build())


def test_large_programs_are_checked_in_bulk():
    program = one("load", *LOAD)
    entries = np.repeat(program.entries, 100_000)
    large = dataclasses.replace(program, entries=entries)
    validate_program(large)
    entries["core"][99_999] = 8
    refused("entry 99999 (load): core 8 does not exist", large)
