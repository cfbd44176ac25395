import pytest
from tvm.script import tirx as T

from dsa_compiler.emit.emission import Emission
from dsa_compiler.emit.measure import Work
from dsa_compiler.emit.pipeline import PIPELINE, EmitOptions, emit_kernel
from dsa_compiler.errors import UserError
from tests.emit.checks import assert_emitted, assert_equal_results, reasons
from tests.emit.test_recognize_matrix import convolution


def test_the_passes_are_those_of_the_design(v1):
    names = [make(v1, EmitOptions()).name for make in PIPELINE]
    assert names == [
        "LoopShift", "LoopFission", "LoopCollapse", "IfPromotion", "LoopPartition", "IfPromotion", "LoopShift",
        "PreProcess",
    ]  # fmt: skip


def test_every_pass_keeps_the_meaning(v1):
    func = convolution
    for make in PIPELINE:
        step = make(v1, EmitOptions())
        after = step(func)
        assert_equal_results(func, after, rtol=2e-2)
        func = after


@T.prim_func(s_tir=True)
def mixed(x: T.Buffer((21, 64), "float16"), y: T.Buffer((21, 64), "float16")):
    for t in T.serial(3, annotations={"dsac.tile": 1}):
        a = T.alloc_buffer((8, 64), "float16", scope="global.l1")
        b = T.alloc_buffer((8, 64), "float16", scope="global.l1")
        for io, ii, c in T.grid(2, 4, 64):
            if t * 8 + (io * 4 + ii) < 21:
                a[io * 4 + ii, c] = x[t * 8 + (io * 4 + ii), c]
                b[io * 4 + ii, c] = T.Cast("float16", T.exp(T.Cast("float32", a[io * 4 + ii, c])) + T.float32(1))
        for i in range(2, 10):
            for c in range(64):
                if t * 8 + i < 23:
                    y[t * 8 + i - 2, c] = b[i - 2, c]


def test_all_passes_together_emit_everything(part):
    assert_emitted(mixed, part, rtol=2e-3)


@pytest.mark.parametrize("name", ["LoopShift", "LoopFission", "IfPromotion", "PreProcess"])
def test_without_a_pass_something_is_left(name, v1):
    assert reasons(mixed, v1, EmitOptions(disabled=frozenset({name})))


def test_without_merged_axes_there_are_more_instructions(v1):
    whole = assert_emitted(mixed, v1, rtol=2e-3)
    apart = assert_emitted(mixed, v1, rtol=2e-3, options=EmitOptions(disabled=frozenset({"LoopCollapse"})))
    assert sum(apart.counts.values()) > sum(whole.counts.values())


def test_dumps_are_numbered(tmp_path, v1):
    emit_kernel(mixed, v1, EmitOptions(dump=tmp_path, disabled=frozenset({"LoopPartition"})))
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "00_level3.py", "01_LoopShift.py", "02_LoopFission.py", "03_LoopCollapse.py", "04_IfPromotion.py",
        "06_IfPromotion.py", "07_LoopShift.py", "08_PreProcess.py", "09_Emission.py",
    ]  # fmt: skip
    assert "T.npu." in (tmp_path / "09_Emission.py").read_text()


def test_work_is_counted_by_kind(v1):
    result = emit_kernel(convolution, v1)
    assert result.left == Work()
    assert result.emitted.macs == 3 * 9 * 4 * 12 * 32 * 32
    assert result.emitted.elements == 3 * 4 * 12 * 32


def test_work_that_is_left_is_counted_too(v1):
    @T.prim_func(s_tir=True)
    def left(x: T.Buffer((4, 64), "float16"), y: T.Buffer((64,), "float16", scope="global.l1")):
        for t in T.serial(4, annotations={"dsac.tile": 1}):
            for i in range(64):
                y[i] = x[t, i % 7]

    result = emit_kernel(left, v1)
    assert result.left == Work(bytes=512) and result.emitted == Work()
    assert result.leftovers[0].trips == 4


def marked(kind, mark):
    @T.prim_func(s_tir=True)
    def scan(x: T.Buffer((8, 64), "float32", scope="global.l1"), y: T.Buffer((8, 64), "float32", scope="global.l1")):
        with T.attr(0, "pragma_npu_instruction", mark):
            for i, j in T.grid(8, 64):
                y[i, j] = x[i, j]

    @T.prim_func(s_tir=True)
    def strided(x: T.Buffer((8, 64), "float32", scope="global.l1"), y: T.Buffer((8, 64), "float32", scope="global.l1")):
        with T.attr(0, "pragma_npu_instruction", mark):
            for i, j in T.grid(8, 64):
                y[i, j] = x[j % 8, i]

    return scan if kind == "scan" else strided


def test_a_marked_nest_is_the_instruction_that_its_author_named(v1):
    func = emit_kernel(marked("scan", '{"op": "cumsum", "attrs": {"axis": 1}}'), v1).func
    assert 'T.npu.cumsum("dst"' in func.script() and '\\"axis\\": 1' in func.script()


def test_a_mark_chooses_among_recognised_instructions(v1):
    assert "T.npu.copy(" in emit_kernel(marked("scan", "copy"), v1).func.script()


@pytest.mark.parametrize(
    ("kind", "mark", "message"),
    [
        ("scan", "fly", "no instruction is called 'fly'"),
        ("scan", "{}", "is not of the form"),
        ("scan", "{", "is not of the form"),
        ("strided", "copy", "the nest marked copy cannot be that instruction: an index of x is not linear"),
        (
            "scan",
            "matmul",
            "the nest marked matmul cannot be that instruction: matmul does not take float32 in l1 as dst",
        ),
    ],
)
def test_a_mark_that_cannot_be_is_the_authors_error(kind, mark, message, v1):
    with pytest.raises(UserError, match=message):
        emit_kernel(marked(kind, mark), v1)


def test_other_marks_do_not_stand_in_the_way(v1):
    @T.prim_func(s_tir=True)
    def other(x: T.Buffer((64,), "float32", scope="global.l1"), y: T.Buffer((64,), "float32", scope="global.l1")):
        with T.attr(0, "pragma_unroll", 1):
            for i in range(64):
                y[i] = x[i]

    assert not Emission(v1)(other).same_as(other)
