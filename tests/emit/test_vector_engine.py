import pytest
from tvm import sym, tirx
from tvm.tirx import IntImm, Var

from dsa_compiler.emit.expression import Unmatched
from dsa_compiler.emit.kernel_pass import Scope
from dsa_compiler.emit.nest import Axis, access
from dsa_compiler.emit.vector_engine import Part, VectorEngine


def axes(*extents):
    return [Axis(Var(f"i{n}", "int32"), IntImm("int32", e), e) for n, e in enumerate(extents)]


def part(role, axis_list, shape, index, scope="global.l1", dtype="float16", **how):
    """An operand over a buffer of `shape`; `index(*variables)` gives its indices."""
    buffer = tirx.decl_buffer(shape, dtype, role, scope=scope, layout=None)
    variables = [a.var for a in axis_list]
    indices = [IntImm("int32", i) if isinstance(i, int) else i for i in index(*variables)]
    return Part(role, access(buffer, indices, variables), written=role == "dst", **how)


def engine(target, collapse=True):
    return VectorEngine(target, Scope(sym.Analyzer()), collapse)


def extents(fit):
    return tuple(g.bound for g in fit.groups)


def test_axes_that_all_operands_walk_as_one_are_merged(v1):
    a = axes(8, 56, 64)
    parts = [part(r, a, (8, 56, 64), lambda i, j, k: (i, j, k)) for r in ("dst", "src")]
    assert extents(engine(v1).fits(a, parts)[0]) == (8 * 56 * 64,)


def test_without_collapse_axes_stay(v1):
    a = axes(8, 56, 64)
    parts = [part(r, a, (8, 56, 64), lambda i, j, k: (i, j, k)) for r in ("dst", "src")]
    assert extents(engine(v1, collapse=False).fits(a, parts)[0]) == (8, 56, 64)


def test_one_operand_with_a_pitch_keeps_rows_apart(v1):
    a = axes(8, 56, 60)
    parts = [
        part("dst", a, (8, 56, 64), lambda i, j, k: (i, j, k)),
        part("src", a, (8, 58, 64), lambda i, j, k: (i, j, k)),
    ]
    assert extents(engine(v1).fits(a, parts)[0]) == (8, 56, 60)


def test_a_broadcast_row_is_a_stride_of_zero(v1):
    a = axes(8, 64)
    parts = [
        part("dst", a, (8, 64), lambda i, j: (i, j)),
        part("src", a, (64,), lambda i, j: (j,)),
        part("src2", a, (8, 16), lambda i, j: (i, 0), broadcast=True),
    ]
    fit = engine(v1).fits(a, parts)[0]
    assert [g.strides for g in fit.groups] == [(64, 0, 16), (1, 1, 0)]


def test_exchanged_axes_are_ordered_by_what_is_contiguous(v1):
    a = axes(64, 8)
    parts = [part(r, a, (8, 64), lambda j, i: (i, j)) for r in ("dst", "src")]
    assert extents(engine(v1).fits(a, parts)[0]) == (512,)


def test_a_fourth_dimension_stays_a_loop_and_the_longest_go_inside(v1):
    a = axes(3, 5, 7, 32)
    parts = [part(r, a, (6, 12, 14, 64), lambda b, c, d, e: (b, c, d, e)) for r in ("dst", "src")]
    fit = engine(v1).fits(a, parts)[0]
    assert extents(fit) == (5, 7, 32)
    assert fit.outer == (0,) and fit.calls == 3


def test_a_row_longer_than_an_extent_may_be_is_reshaped(v1):
    a = axes(131072)
    parts = [part(r, a, (131072,), lambda i: (i,)) for r in ("dst", "src")]
    fit = engine(v1).fits(a, parts)[0]
    assert len(fit.groups) == 2 and fit.groups[0].bound * fit.groups[1].bound == 131072
    assert fit.groups[1].bound <= v1.limits.extent


def test_extents_merge_only_up_to_the_limit(v1):
    a = axes(40, 4096)
    parts = [part(r, a, (40, 4096), lambda i, j: (i, j)) for r in ("dst", "src")]
    assert extents(engine(v1).fits(a, parts)[0]) == (40, 4096)


def test_an_extent_of_a_tile_variable_merges_with_whole_rows(v1):
    tile = Var("t", "int32")
    rows = Axis(Var("i", "int32"), tirx.min(8, 20 - tile * 8), 8)
    a = [rows, *axes(64)]
    parts = [part(r, a, (8, 64), lambda i, j: (i, j)) for r in ("dst", "src")]
    fit = engine(v1).fits(a, parts)[0]
    assert extents(fit) == (512,) and not fit.groups[0].exact


def test_rows_of_unknown_length_do_not_merge(v1):
    tile = Var("t", "int32")
    columns = Axis(Var("j", "int32"), tirx.min(64, 100 - tile * 64), 64)
    a = [*axes(8), columns]
    parts = [part(r, a, (8, 64), lambda i, j: (i, j)) for r in ("dst", "src")]
    assert extents(engine(v1).fits(a, parts)[0]) == (8, 64)


def test_one_element_a_row_is_a_legal_operand(v1):
    a = axes(8)
    parts = [part(r, a, (8, 16), lambda i: (i, 0)) for r in ("dst", "src")]
    fit = engine(v1).fits(a, parts)[0]
    assert [(g.bound, g.strides) for g in fit.groups] == [(8, (16, 16)), (1, (1, 1))]


@pytest.mark.parametrize(
    ("shape", "index", "reason"),
    [
        ((8, 20), lambda i, j: (i, j), "rows of src in l1 are 20 elements of float16 apart, which is not aligned"),
        ((8, 64), lambda i, j: (i, j + 3), "src in l1 starts at element 3, which is not aligned"),
        ((8, 128), lambda i, j: (i, j * 2), "no axis is contiguous in every operand: src has stride 2"),
        ((8, 64), lambda i, j: (i, 48 - j), "src is walked backwards"),
        ((8, 64), lambda i, j: (i, 0), "no axis is contiguous in every operand: src has stride 0"),
    ],
)
def test_what_forbids_a_placement_is_told(shape, index, reason, v1):
    a = axes(8, 16)
    parts = [part("dst", a, (8, 64), lambda i, j: (i, j)), part("src", a, shape, index)]
    with pytest.raises(Unmatched, match=reason):
        engine(v1).fits(a, parts)


def test_alignment_is_that_of_the_part(v1, v2):
    a = axes(8, 16)
    parts = [part(r, a, (8, 16), lambda i, j: (i, 0 * j + j)) for r in ("dst", "src")]
    wide = [part("dst", a, (8, 16), lambda i, j: (i, j)), part("src", a, (8, 48), lambda i, j: (i, j))]
    assert engine(v1).fits(a, parts) and engine(v1).fits(a, wide)
    with pytest.raises(Unmatched, match="rows of dst in l1 are 16 elements of float16 apart"):
        engine(v2).fits(a, wide)


def test_ddr_is_bound_by_no_alignment(v1):
    a = axes(8, 16)
    parts = [
        part("dst", a, (8, 64), lambda i, j: (i, j)),
        part("src", a, (8, 21), lambda i, j: (i, j + 1), scope="global"),
    ]
    assert extents(engine(v1).fits(a, parts)[0]) == (8, 16)


def test_a_result_written_several_times_is_refused(v1):
    a = axes(8, 64)
    parts = [part("dst", a, (64,), lambda i, j: (j,)), part("src", a, (8, 64), lambda i, j: (i, j))]
    with pytest.raises(Unmatched, match="dst is written several times"):
        engine(v1).fits(a, parts)


def test_a_stride_that_depends_on_a_tile_is_refused(v1):
    tile = Var("t", "int32")
    a = axes(8, 64)
    parts = [
        part("dst", a, (8, 64), lambda i, j: (i, j)),
        part("src", a, (4096,), lambda i, j: (i * tile + j,), scope="global"),
    ]
    with pytest.raises(Unmatched, match="a stride of src depends on a tile: t"):
        engine(v1).fits(a, parts)


def test_an_unmergeable_axis_stays_by_itself(v1):
    a = axes(8, 64)
    parts = [part(r, a, (8, 64), lambda i, j: (i, j)) for r in ("dst", "src")]
    assert extents(engine(v1).fits(a, parts, unmergeable=frozenset({0}))[0]) == (8, 64)


def test_a_length_that_does_not_divide_is_refused(v1):
    a = axes(131071)
    parts = [part(r, a, (131072,), lambda i: (i,)) for r in ("dst", "src")]
    with pytest.raises(
        Unmatched, match="an extent of 131071 is beyond the limit of 65535 and does not divide into rows"
    ):
        engine(v1).fits(a, parts)
