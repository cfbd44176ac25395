"""What keeps a nest from being emitted is told, each fact in its own words."""

from dataclasses import replace

import pytest
import tvm
from tvm import sym, tirx
from tvm.tirx import BufferStore, For, ForKind, IntImm, PrimFunc, Var

from dsa_compiler.emit.context import Context
from dsa_compiler.emit.expression import Load, Reader, Unmatched, spell
from dsa_compiler.emit.kernel_pass import KernelPass, Scope
from dsa_compiler.emit.nest import extract
from dsa_compiler.emit.patterns import fold
from dsa_compiler.emit.recognize_copy import copies
from dsa_compiler.emit.recognize_gather import gathers
from dsa_compiler.emit.recognize_img2col import windows_to_rows
from dsa_compiler.emit.recognize_interleave import interleaves
from dsa_compiler.emit.recognize_matrix import products
from dsa_compiler.emit.recognize_pair import first_products, require_same_region
from dsa_compiler.emit.recognize_reduce import reductions
from dsa_compiler.emit.recognize_transpose import transposes
from dsa_compiler.emit.recognize_vector import elementwise
from dsa_compiler.emit.recognize_window import added_windows, windows
from dsa_compiler.emit.vector_engine import VectorEngine
from dsa_compiler.errors import InternalError
from dsa_compiler.target import load_target

V1 = load_target("npu-v1")
SCOPES = {"ddr": "global", **{s: f"global.{s}" for s in ("llb", "l1", "l0a", "l0b", "l0c")}}


def buffer(name, scope, shape, dtype="float16"):
    return tirx.decl_buffer(shape, dtype, name, scope=SCOPES.get(scope, scope), layout=None)


class Loops:
    """Loop variables by name and extent; `nest(store)` is the nest of data around a store."""

    def __init__(self, **extents):
        self.vars = {n: Var(n, "int32") for n in extents}
        self.extents = extents

    def __getattr__(self, name):
        return self.__dict__["vars"][name]

    def around(self, stmt):
        for name in reversed(self.extents):
            stmt = For(self.vars[name], IntImm("int32", 0), IntImm("int32", self.extents[name]), ForKind.SERIAL, stmt)
        return stmt

    def nest(self, target, indices, value, guard=None):
        store = BufferStore(target, value, [IntImm("int32", i) if isinstance(i, int) else i for i in indices])
        found = extract(self.around(store if guard is None else tirx.IfThenElse(guard, store, None)), Scope())
        return replace(found, value=fold(found.value))


def context(target=V1):
    scope = Scope(sym.Analyzer())
    return Context(target, scope, VectorEngine(target, scope))


def told(plans, message):
    with pytest.raises(Unmatched) as error:
        list(plans)
    assert message in str(error.value)


def half(value):
    return tirx.const(value, "float16")


def wide(value):
    return tirx.Cast("float32", value)


# ---- reading nests -----------------------------------------------------------------------------------------------
def test_an_expression_that_is_no_operation():
    with pytest.raises(Unmatched, match="no operation is a StringImm"):
        Reader().read(tvm.ir.StringImm("x"))


def test_a_condition_left_in_the_value():
    x, i = buffer("x", "l1", (8,)), Var("i", "int32")
    with pytest.raises(Unmatched, match="a condition on loop variables is left in the value"):
        Reader().read(tirx.if_then_else(i < 3, x[i], half(0)))


def test_a_choice_between_two_loads():
    l, x, y = Loops(i=64), buffer("x", "ddr", (64,)), buffer("y", "l1", (64,))
    with pytest.raises(Unmatched, match="a condition on loop variables chooses between two values"):
        l.nest(y, [l.i], tirx.if_then_else(l.i < 3, x[l.i], x[l.i - 3]))
    with pytest.raises(Unmatched, match="a condition on loop variables chooses between two values"):
        l.nest(y, [l.i], tirx.if_then_else(l.i < 3, x[l.i] * x[l.i], half(0)))


def test_a_scope_that_is_no_memory():
    l, x, y = Loops(i=64), buffer("x", "shared", (64,)), buffer("y", "l1", (64,))
    with pytest.raises(Unmatched, match="buffer x is in 'shared', which is no memory of the part"):
        l.nest(y, [l.i], x[l.i])


def test_a_load_without_an_expression_is_a_defect():
    with pytest.raises(InternalError, match="load 0 has no expression"):
        spell(Load(0, "float32"), {})


def test_a_pass_says_what_it_does_to_a_nest():
    y = buffer("y", "l1", (64,))
    func = PrimFunc([y], BufferStore(y, half(0), [0])).with_attr("global_symbol", "main")
    with pytest.raises(NotImplementedError):
        KernelPass()(func)


# ---- copies ------------------------------------------------------------------------------------------------------
def test_rounding_and_padding_at_once():
    l, x, y = Loops(i=18, j=64), buffer("x", "l0c", (16, 64), "float32"), buffer("y", "ddr", (18, 64))
    padded = tirx.if_then_else(tirx.all(l.i >= 1, l.i < 17), x[l.i - 1, l.j], tirx.const(0, "float32"))
    told(
        copies(l.nest(y, [l.i, l.j], tirx.Cast("float16", padded)), context()), "no instruction rounds and pads at once"
    )


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda i, j: i + j < 70, "is on 2 axes"),
        (lambda i, j: tirx.EQ(tirx.floormod(i, 2), 0), "is no bound on i"),
    ],
)
def test_predicates_that_are_no_box(condition, message):
    l, x, y = Loops(i=18, j=64), buffer("x", "ddr", (18, 64)), buffer("y", "l1", (18, 64))
    value = tirx.if_then_else(condition(l.i, l.j), x[l.i, l.j], half(0))
    told(copies(l.nest(y, [l.i, l.j], value), context()), message)


def test_padding_where_no_instruction_pads():
    l, x, y = Loops(i=18, j=64), buffer("x", "l1", (18, 64)), buffer("y", "l0b", (18, 64))
    value = tirx.if_then_else(l.i < 17, x[l.i, l.j], half(0))
    told(copies(l.nest(y, [l.i, l.j], value), context()), "no instruction pads from l1 to l0b")


# ---- gathers -----------------------------------------------------------------------------------------------------
def gather(**change):
    l = Loops(**change.get("extents", {"i": 8, "c": 64}))
    table = buffer("t", "ddr", change.get("table", (8, 64)))
    index = buffer("n", change.get("index_scope", "l1"), change.get("index", (16,)), "int32")
    dst = buffer("y", "l1", change.get("dst", (8, 64)))
    return l, table, index, dst


def test_a_gather_into_rows_that_are_not_aligned():
    l, t, n, y = gather(dst=(8, 70))
    told(gathers(l.nest(y, [l.i, l.c], t[n[l.i], l.c]), context()), "rows of y are not aligned")


def test_a_gather_in_loops_that_are_not_aligned():
    l, t, n, y = gather(extents={"b": 2, "i": 8, "c": 64}, index=(2, 9), dst=(2, 8, 64))
    told(gathers(l.nest(y, [l.b, l.i, l.c], t[n[l.b, l.i], l.c]), context()), "steps in n are not aligned")


def test_a_gather_from_too_many_rows():
    l, t, n, y = gather(table=(70000, 64))
    told(gathers(l.nest(y, [l.i, l.c], t[n[l.i], l.c]), context()), "has more than 65535 rows")


# ---- img2col -----------------------------------------------------------------------------------------------------
def test_img2col_pads_with_whole_numbers():
    l, x, a = Loops(w=8, k=3, c=16), buffer("x", "l1", (4, 10, 16)), buffer("a", "l0a", (8, 48))
    value = tirx.if_then_else(l.w + l.k < 9, x[0, l.w + l.k, l.c], half(0.5))
    told(
        windows_to_rows(l.nest(a, [l.w, l.k * 16 + l.c], value), context()), "img2col pads with whole numbers, not 0.5"
    )


def test_a_kernel_walked_in_another_order():
    l = Loops(h=4, w=4, kw=3, kh=3, c=16)
    x, a = buffer("x", "l1", (6, 6, 16)), buffer("a", "l0a", (16, 144))
    nest = l.nest(a, [l.h * 4 + l.w, (l.kw * 3 + l.kh) * 16 + l.c], x[l.h + l.kh, l.w + l.kw, l.c])
    told(windows_to_rows(nest, context()), "rows or columns of the operand are not in the order of img2col")


def test_an_operand_of_three_dimensions():
    l, x, a = Loops(h=4, w=4, c=16), buffer("x", "l1", (6, 6, 16)), buffer("a", "l0a", (4, 4, 16))
    told(
        windows_to_rows(l.nest(a, [l.h, l.w, l.c], x[l.h, l.w, l.c]), context()),
        "the operand of a product is not a matrix",
    )


def test_an_axis_on_rows_and_columns():
    l, x, a = Loops(w=4, c=16), buffer("x", "l1", (6, 6, 16)), buffer("a", "l0a", (4, 32))
    told(
        windows_to_rows(l.nest(a, [l.w, l.c + l.w], x[0, l.w, l.c]), context()),
        "on rows and columns of the operand at once",
    )


def test_padded_rows_with_gaps():
    l, x, a = Loops(h=4, w=5, c=16), buffer("x", "l1", (6, 6, 16)), buffer("a", "l0a", (32, 16))
    value = tirx.if_then_else(l.h >= 1, x[l.h - 1, l.w, l.c], half(0))
    told(windows_to_rows(l.nest(a, [l.h * 8 + l.w, l.c], value), context()), "rows of the operand are not tight")


def test_rows_of_l0a_that_are_not_aligned():
    l, x, a = Loops(w=5, c=8), buffer("x", "l1", (6, 6, 8)), buffer("a", "l0a", (32, 20))
    told(windows_to_rows(l.nest(a, [l.w, l.c], x[0, l.w, l.c]), context()), "rows of a are 20 elements apart")


def test_pixels_that_start_anywhere():
    l, x, a = Loops(h=4, w=5, c=4), buffer("x", "l1", (6, 6, 6)), buffer("a", "l0a", (32, 16))
    nest = l.nest(a, [l.h * 5 + l.w, l.c], x[l.h, l.w, l.c])
    told(windows_to_rows(nest, context()), "does not start at a multiple of 8 bytes")


def test_rows_of_the_image_that_are_not_aligned():
    l, x, a = Loops(h=4, w=5, c=4), buffer("x", "l1", (6, 7, 4)), buffer("a", "l0a", (32, 16))
    told(windows_to_rows(l.nest(a, [l.h * 8 + l.w, l.c], x[l.h, l.w, l.c]), context()), "rows of x are not aligned")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda l: tirx.EQ(l.w + l.k, 3), "is no bound of a window"),
        (lambda l: tirx.floormod(l.w, 2) < 1, "is no bound of a window"),
        (lambda l: l.w + l.k * 2 < 9, "does not follow the window"),
    ],
)
def test_conditions_that_are_no_window(condition, message):
    l, x, a = Loops(w=8, k=3, c=16), buffer("x", "l1", (4, 10, 16)), buffer("a", "l0a", (8, 48))
    value = tirx.if_then_else(condition(l), x[0, l.w + l.k, l.c], half(0))
    told(windows_to_rows(l.nest(a, [l.w, l.k * 16 + l.c], value), context()), message)


def test_an_axis_on_two_dimensions_of_the_image():
    l, x, a = Loops(w=4, c=16), buffer("x", "l1", (6, 6, 16)), buffer("a", "l0a", (4, 16))
    told(windows_to_rows(l.nest(a, [l.w, l.c], x[l.w, l.w, l.c]), context()), "walks several dimensions of the tensor")


def test_three_axes_on_one_dimension():
    l = Loops(w=4, p=2, q=2, c=16)
    x, a = buffer("x", "l1", (6, 9, 16)), buffer("a", "l0a", (4, 64))
    nest = l.nest(a, [l.w, (l.p * 2 + l.q) * 16 + l.c], x[0, l.w + l.p * 2 + l.q, l.c])
    told(windows_to_rows(nest, context()), "walked by more than an output and a kernel axis")


def test_a_window_walked_backwards():
    l, x, a = Loops(w=4, c=16), buffer("x", "l1", (6, 6, 16)), buffer("a", "l0a", (4, 16))
    told(windows_to_rows(l.nest(a, [l.w, l.c], x[0, 5 - l.w, l.c]), context()), "a window is walked backwards")


# ---- products ----------------------------------------------------------------------------------------------------
def product(a_shape=(16, 64), b_shape=(64, 32), c_shape=(16, 32), extents=None, dtype="float16"):
    l = Loops(**(extents or {"i": 16, "j": 32, "k": 64}))
    return (
        l,
        buffer("a", "l0a", a_shape, dtype),
        buffer("b", "l0b", b_shape, dtype),
        buffer("c", "l0c", c_shape, "float32"),
    )


def multiply(l, a, b, c, at, left, right):
    return l.nest(c, at, c[tuple(at)] + wide(a[tuple(left)]) * wide(b[tuple(right)]))


def test_operands_in_the_wrong_scope():
    l, a, _, c = product()
    b = buffer("b", "l1", (64, 32))
    told(
        products(multiply(l, a, b, c, [l.i, l.j], [l.i, l.k], [l.k, l.j]), context()),
        "does not take float16 in l1 as rhs",
    )


def test_loops_around_a_product_that_are_not_aligned():
    extents = {"h": 3, "i": 16, "j": 8, "k": 64}
    l, a, b, c = product(b_shape=(64, 32), c_shape=(16, 64), extents=extents)
    nest = multiply(l, a, b, c, [l.i, l.h * 16 + l.j], [l.i, l.k], [l.k, l.h * 8 + l.j])
    told(products(nest, context()), "steps of 8 elements in b are not aligned")


def test_rows_of_an_operand_that_are_not_aligned():
    l, a, b, c = product(a_shape=(16, 70))
    nest = multiply(l, a, b, c, [l.i, l.j], [l.i, l.k], [l.k, l.j])
    told(products(nest, context()), "rows of a are 70 elements apart, which is not aligned")


def test_a_left_operand_with_steps():
    l, a, b, c = product(a_shape=(16, 128))
    nest = multiply(l, a, b, c, [l.i, l.j], [l.i, l.k * 2], [l.k, l.j])
    told(products(nest, context()), "no axis of k is contiguous")


def filled(value=0.0, extents=None, at=None):
    l = Loops(**(extents or {"i": 16, "j": 32}))
    c = buffer("c", "l0c", (16, 32), "float32")
    return l, c, l.nest(c, at or [l.i, l.j], tirx.const(value, "float32"))


def test_pairs_of_other_forms():
    l, a, b, c = product()
    update = multiply(l, a, b, c, [l.i, l.j], [l.i, l.k], [l.k, l.j])
    m = Loops(i=16, j=32)
    init = m.nest(c, [m.i, m.j], tirx.const(0.0, "float32"))
    with pytest.raises(Unmatched, match="the second nest is no product"):
        first_products(init, init, context())
    other = buffer("d", "l0c", (16, 32), "float32")
    with pytest.raises(Unmatched, match="the two nests write different buffers"):
        require_same_region(m.nest(other, [m.i, m.j], tirx.const(0.0, "float32")), update)
    n = Loops(i=15, j=32)
    with pytest.raises(Unmatched, match="the two nests write different elements"):
        require_same_region(n.nest(c, [n.i, n.j], tirx.const(0.0, "float32")), update)
    y = buffer("y", "l1", (16, 32), "float32")
    with pytest.raises(Unmatched, match="the accumulator is not in l0c"):
        first_products(m.nest(y, [m.i, m.j], tirx.const(0.0, "float32")), update, context())
    with pytest.raises(Unmatched, match="the accumulator starts with an expression"):
        first_products(m.nest(c, [m.i, m.j], tirx.const(1.0, "float32")), update, context())


@pytest.mark.parametrize(
    ("scope", "shape", "index", "message"),
    [
        ("l1", (1, 32), lambda m: (0, m.j), "no bias is float32 in l1"),
        ("l0b", (16, 32), lambda m: (m.i, m.j), "the bias is no row of the accumulator"),
        ("l0b", (1, 32), lambda m: (0, 0), "the bias is no row of the accumulator"),
    ],
)
def test_biases_that_are_no_row(scope, shape, index, message):
    l, a, b, c = product()
    update = multiply(l, a, b, c, [l.i, l.j], [l.i, l.k], [l.k, l.j])
    m, bias = Loops(i=16, j=32), buffer("bias", scope, shape, "float32")
    with pytest.raises(Unmatched, match=message):
        first_products(m.nest(c, [m.i, m.j], bias[index(m)]), update, context())


def test_a_bias_that_moves_by_parts_of_rows():
    extents = {"h": 2, "i": 16, "j": 32, "k": 64}
    l = Loops(**extents)
    a, b, c = buffer("a", "l0a", (16, 64)), buffer("b", "l0b", (64, 64)), buffer("c", "l0c", (2, 16, 32), "float32")
    update = multiply(l, a, b, c, [l.h, l.i, l.j], [l.i, l.k], [l.k, l.h * 32 + l.j])
    m, bias = Loops(h=2, i=16, j=32), buffer("bias", "l0b", (1, 64), "float32")
    with pytest.raises(Unmatched, match="the bias does not move by whole rows"):
        first_products(m.nest(c, [m.h, m.i, m.j], bias[0, m.h * 4 + m.j]), update, context())


def test_a_sum_that_does_not_fit():
    l = Loops(p=2, i=16, j=32, k=64)
    a, b, c = buffer("a", "l0a", (16, 256)), buffer("b", "l0b", (256, 32)), buffer("c", "l0c", (16, 32), "float32")
    update = multiply(l, a, b, c, [l.i, l.j], [l.i, l.p * 96 + l.k], [l.p * 96 + l.k, l.j])
    m = Loops(i=16, j=32)
    with pytest.raises(Unmatched, match="the sum does not fit in one instruction"):
        first_products(m.nest(c, [m.i, m.j], tirx.const(0.0, "float32")), update, context())


# ---- reductions, windows, layout -----------------------------------------------------------------------------------
def reduction(x_shape, y_shape, extents, at, index, x_scope="l1", y_scope="l1"):
    l = Loops(**extents)
    kept = {n: e for n, e in extents.items() if n != "r"}
    m = Loops(**kept)
    x, y = buffer("x", x_scope, x_shape, "float32"), buffer("y", y_scope, y_shape, "float32")
    update = l.nest(y, at(l), y[tuple(at(l))] + x[tuple(index(l))])
    return m.nest(y, at(m), tirx.const(0.0, "float32")), update


def test_reductions_that_no_instruction_does():
    init, update = reduction(
        (8, 64), (8, 8), {"i": 8, "r": 64}, lambda l: [l.i, 0], lambda l: [l.i, l.r], y_scope="ddr"
    )
    told(reductions(init, update, context()), "reduce_sum does not take float32 in l1 to ddr")
    init, update = reduction((8, 60), (8, 8), {"i": 8, "r": 60}, lambda l: [l.i, 0], lambda l: [l.i, l.r])
    told(reductions(init, update, context()), "rows of x are 60 elements apart, which is not aligned")
    init, update = reduction((9, 60), (60,), {"j": 50, "r": 9}, lambda l: [l.j], lambda l: [l.r, l.j])
    told(reductions(init, update, context()), "rows of x are not aligned")
    init, update = reduction((70000, 8), (8,), {"j": 5, "r": 70000}, lambda l: [l.j], lambda l: [l.r, l.j])
    told(reductions(init, update, context()), "an extent of 70000 is beyond the limit of 65535")
    init, update = reduction((3, 4, 8), (3, 8), {"i": 3, "r": 4}, lambda l: [l.i, 0], lambda l: [l.i, l.r, 0])
    told(
        reductions(update, update, context()),
        "the accumulator of the reduction does not start with the neutral element",
    )
    told(reductions(init, init, context()), "the nest is no reduction")


def window(x_shape=(6, 8, 16), y_shape=(4, 6, 16), taps=(3, 3, 16), weights=None, **change):
    """(first values, a depthwise product) over `x`."""
    extents = {"r": 4, "w": 6, "c": 16, "kh": 3, "kw": 3, **change.get("extents", {})}
    l, m = Loops(**extents), Loops(**{n: extents[n] for n in ("r", "w", "c")})
    x, k = buffer("x", change.get("scope", "l1"), x_shape, "float32"), buffer("k", "l1", taps, "float32")
    y = buffer("y", "l1", y_shape, "float32")
    at = weights or (lambda l: (l.kh, l.kw, l.c))
    read = x[l.r + l.kh, l.w + l.kw, l.c]
    if "padding" in change:
        inside = change.get("inside", lambda l: l.r + l.kh < 5)
        read = tirx.if_then_else(inside(l), read, tirx.const(change["padding"], "float32"))
    update = l.nest(y, [l.r, l.w, l.c], y[l.r, l.w, l.c] + read * k[at(l)])
    return m.nest(y, [m.r, m.w, m.c], tirx.const(0.0, "float32")), update


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": 1.0}, "a window is padded with 1.0, which takes part in the result"),
        ({"taps": (4, 3, 3, 16), "weights": lambda l: (l.r, l.kh, l.kw, l.c)}, "the tap weights vary over the image"),
        (
            {"taps": (3, 3, 32), "weights": lambda l: (l.kh, l.kw, l.c * 2)},
            "the tap weights are not contiguous in channels",
        ),
        ({"padding": 0.0, "inside": lambda l: l.c < 9}, "is not on the image"),
        ({"scope": "ddr"}, "depthwise does not take float32 in ddr as src"),
        ({"x_shape": (6, 8, 17)}, "pixels or rows of x are not aligned"),
    ],
)
def test_windows_that_no_instruction_walks(change, message):
    told(windows(*window(**change), context()), message)


def test_a_window_too_large_for_an_extent():
    wide_image = {"extents": {"w": 70000}, "x_shape": (6, 70002, 16), "y_shape": (4, 70000, 16)}
    told(windows(*window(**wide_image), context()), "an extent of 70000 is beyond the limit of 65535")


def test_windows_that_start_with_something_else():
    init, _ = window()
    told(windows(init, init, context()), "the nest is no accumulation over a window")
    l = Loops(r=4, w=6, c=16, k=3)
    x, y = buffer("x", "l1", (6, 8, 16), "float32"), buffer("y", "l1", (4, 6, 16), "float32")
    pool = l.nest(y, [l.r, l.w, l.c], tirx.max(y[l.r, l.w, l.c], x[l.r + l.k, l.w, l.c]))
    told(windows(init, pool, context()), "the accumulator of the window does not start with the neutral element")
    told(added_windows(pool, context()), "the accumulator of the window does not start with the neutral element")
    power = l.nest(y, [l.r, l.w, l.c], tirx.max(y[l.r, l.w, l.c], tirx.exp(x[l.r + l.k, l.w, l.c])))
    told(windows(init, power, context()), "the window accumulates an expression")


def test_a_transposition_beyond_the_limit():
    l = Loops(i=70000, j=16)
    x, y = buffer("x", "l1", (70000, 16)), buffer("y", "l1", (16, 70000))
    told(transposes(l.nest(y, [l.j, l.i], x[l.i, l.j]), context()), "is beyond the limit of 65535")
    small = Loops(i=16, j=10)
    a, b = buffer("a", "l1", (16, 20)), buffer("b", "l1", (20, 16))
    told(
        transposes(small.nest(b, [small.j, small.i], a[small.i, small.j]), context()), "rows of a are 20 elements apart"
    )


def test_interleaves_of_other_operands():
    l, m = Loops(j=64), Loops(j=64)
    a, y = buffer("a", "ddr", (64,)), buffer("y", "l1", (128,))
    first, second = l.nest(y, [l.j * 2], a[l.j]), m.nest(y, [m.j * 2 + 1], a[m.j])
    told(interleaves(first, second, context()), "interleave does not take float16 in ddr as src")
    double = m.nest(y, [m.j * 2 + 1], a[m.j] + a[m.j])
    told(interleaves(first, double, context()), "an interleaved value is no plain copy")
    n = Loops(j=32)
    told(interleaves(first, n.nest(y, [n.j * 2 + 1], a[n.j]), context()), "the two copies do not fill the same rows")
    told(interleaves(first, m.nest(y, [m.j * 2 + 3], a[m.j]), context()), "do not fill every other element")


# ---- the vector engine ---------------------------------------------------------------------------------------------
def test_an_operation_that_the_table_lacks():
    l, x, y = Loops(i=64), buffer("x", "l1", (64,), "bool"), buffer("y", "l1", (64,), "bool")
    nest = l.nest(y, [l.i], tirx.Or(x[l.i], x[l.i]))
    unknown = replace(nest, value=replace(nest.value, op="nand"))
    told(elementwise(unknown, context()), "the part has no instruction for nand")


def test_a_row_of_varying_length_beyond_the_limit():
    tile = Var("t", "int32")
    x, y, i = buffer("x", "ddr", (200000,)), buffer("y", "l1", (200000,)), Var("i", "int32")
    store = BufferStore(y, x[i], [i])
    scope = Scope(sym.Analyzer())
    scope.analyzer.bind(tile, tvm.ir.Range.from_min_extent(0, 2))
    loop = For(i, IntImm("int32", 0), tirx.min(IntImm("int32", 100000), 150000 - tile * 100000), ForKind.SERIAL, store)
    nest = extract(loop, scope)
    told(copies(nest, Context(V1, scope, VectorEngine(V1, scope))), "an extent of 100000 is beyond the limit of 65535")


@pytest.mark.parametrize("name", ["result", "taps"])
def test_windows_with_distances_that_depend_on_a_tile(name):
    l, m, t = Loops(r=4, w=6, c=16, kh=3, kw=3), Loops(r=4, w=6, c=16), Var("t", "int32")
    x, k, y = buffer("x", "l1", (6, 8, 16)), buffer("k", "l1", (4096,)), buffer("y", "l1", (65536,), "float32")
    row = 96 if name == "taps" else t * 16
    tap = 48 if name == "result" else t * 16

    def place(loops):
        return loops.r * row + loops.w * 16 + loops.c

    product = wide(x[l.r + l.kh, l.w + l.kw, l.c]) * wide(k[l.kh * tap + l.kw * 16 + l.c])
    update = l.nest(y, [place(l)], y[place(l)] + product)
    init = m.nest(y, [place(m)], tirx.const(0.0, "float32"))
    wanted = {"result": "rows of the result are", "taps": "rows of the tap weights are"}[name]
    told(windows(init, update, context()), f"{wanted} at a distance that depends on a tile")


def test_a_gather_with_padding():
    l, t, n, y = gather()
    value = tirx.if_then_else(l.i < 7, t[n[l.i], l.c], half(0))
    told(copies(l.nest(y, [l.i, l.c], value), context()), "load_pad does not take float16 from ddr to l1")
