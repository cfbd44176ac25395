from tvm import tirx
from tvm.ir import Op
from tvm.tirx import Evaluate, IntImm, Var

from dsa_compiler.emit.intrinsics import InstructionOperand, decode_call, encode, intrinsic, is_instruction


def operand(role, base, extents, strides):
    buffer = tirx.decl_buffer((64, 64), "float16", "b", scope="global.l1", layout=None)
    return InstructionOperand(role, buffer, base, extents, strides)


def test_a_call_reads_back_as_it_was_written():
    i = Var("i", "int32")
    extent = tirx.min(IntImm("int32", 8), 20 - i * 8)
    operands = [operand("dst", (i * 8, 0), (extent, 64), (64, 1)), operand("src", (0, i), (64,), (0,))]
    attrs = {"pad": [[i, 0], [0, i + 1]], "value": 0.5, "flag": True, "name": "row"}
    stmt = encode("relu", operands, attrs)
    opcode, read, values, exprs = decode_call(stmt.value)
    assert opcode == "relu"
    assert values == {"pad": [["$0", 0], [0, "$1"]], "value": 0.5, "flag": True, "name": "row"}
    assert exprs[0].same_as(i) and str(exprs[1]) == "i + 1"
    for got, given in zip(read, operands, strict=True):
        assert (got.role, got.strides) == (given.role, given.strides)
        assert got.buffer.same_as(given.buffer)
        assert [str(e) for e in got.extents] == [str(e) for e in given.extents]
        assert [str(e) for e in got.base] == [str(e) for e in given.base]


def test_constants_that_json_has_no_word_for_are_texts():
    stmt = encode("fill", [operand("dst", (0, 0), (64,), (1,))], {"value": float("-inf")})
    assert decode_call(stmt.value)[2] == {"value": "-inf"}


def test_calls_are_opaque_and_print_under_their_name():
    stmt = encode("relu", [operand("dst", (0, 0), (64,), (1,))], {})
    assert int(Op.get("tirx.npu.relu").get_attr("TCallEffectKind")) == 3
    assert "T.npu.relu(" in str(stmt)


def test_an_intrinsic_is_registered_once():
    assert intrinsic("gelu").same_as(intrinsic("gelu"))


def test_only_instructions_are_instructions():
    assert is_instruction(encode("relu", [operand("dst", (0, 0), (64,), (1,))], {}))
    assert not is_instruction(Evaluate(IntImm("int32", 0)))
    assert not is_instruction(Evaluate(tirx.call_extern("int32", "f")))
