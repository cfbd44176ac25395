from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_compiler.graph.axes import blocks, reshaped_orders
from dsa_compiler.graph.views import Lazy, Move, View, apply, expand_slice, flattened, identity, is_identity


def read(view: View, array: np.ndarray) -> np.ndarray:
    """Read by the definition: rows and columns of the matrix that a tensor is."""
    matrix = array.reshape(-1, array.shape[-1] if array.ndim else 1)
    result = np.empty(view.shape, array.dtype)
    for index in np.ndindex(*view.shape):
        row = view.offset[0] + sum(i * s[0] for i, s in zip(index, view.strides, strict=True))
        column = view.offset[1] + sum(i * s[1] for i, s in zip(index, view.strides, strict=True))
        result[index] = matrix.reshape(-1)[row * matrix.shape[1] + column]
    return result


@st.composite
def moves(draw):
    """Return a shape and a few steps from it, with what NumPy makes of them."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    array = np.arange(int(np.prod(shape))).reshape(shape)
    value, current = Lazy("t", shape), array
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["permute", "reshape", "slice", "broadcast"]))
        if kind == "permute":
            axes = draw(st.permutations(range(current.ndim)))
            value, current = value.then("permute", axes), current.transpose(axes)
        elif kind == "reshape":
            size = current.size
            factor = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
            target = draw(st.sampled_from([(size,), (factor, size // factor), (1, factor, 1, size // factor)]))
            value, current = value.then("reshape", target), current.reshape(target)
        elif kind == "slice":
            axis = draw(st.integers(0, current.ndim - 1))
            begin = draw(st.integers(0, current.shape[axis] - 1))
            step = draw(st.integers(1, 2))
            attrs = {"axes": [axis], "begin": [begin], "end": [current.shape[axis]], "strides": [step]}
            value = value.then("slice", expand_slice(current.shape, attrs))
            current = np.take(current, range(begin, current.shape[axis], step), axis)
        else:
            target = tuple(3 if n == 1 else n for n in current.shape)
            value, current = value.then("broadcast", target), np.broadcast_to(current, target)
        if current.size > 500:
            break
    return array, value, current


@settings(max_examples=200, derandomize=True, deadline=None)
@given(moves())
def test_steps_read_what_numpy_reads(case):
    array, value, expected = case
    for start in (identity("t", array.shape), flattened(identity("t", array.shape), array.shape[-1])):
        view: View | None = start
        for move in value.moves:
            view = apply(view, move) if view is not None else None
        if view is not None:
            np.testing.assert_array_equal(read(view, array), expected)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(moves())
def test_undoing_invertible_steps_leads_back(case):
    array, value, expected = case
    if not value.invertible():
        return
    back = value.undone(Lazy("u", expected.shape))
    assert back.shape == array.shape
    current = expected
    for move in back.moves:
        current = current.transpose(move.args) if move.kind == "permute" else current.reshape(move.args)
    np.testing.assert_array_equal(current, array)


def test_a_reshape_across_rows_needs_a_dense_tensor():
    view = identity("t", (4, 6))
    move = Move("reshape", (24,), (4, 6))
    assert apply(view, move) is None
    dense = apply(flattened(view, 6), move)
    assert dense is not None and dense.strides == ((0, 1),)


def test_a_transposed_merge_is_no_view():
    view = identity("t", (2, 3, 4))
    permuted = apply(view, Move("permute", (1, 0, 2), (2, 3, 4)))
    assert permuted is not None
    assert apply(permuted, Move("reshape", (6, 4), (3, 2, 4))) is None


def test_identity_and_contiguity():
    view = identity("t", (2, 3, 4))
    assert is_identity(view, (2, 3, 4)) and is_identity(flattened(view, 4), (2, 3, 4))
    assert view.contiguous(2) and not view.contiguous(1) and view.innermost_contiguous()
    wide = apply(view, Move("slice", (0, 1, 1, 0, 3, 1, 0, 4, 1), (2, 3, 4)))
    assert wide is not None and wide.contiguous(0) and not is_identity(wide, (2, 3, 4))
    assert str(view) == "t[2, 3, 4] by (3r, 1r, 1)"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((1, 8, 6), (2, 4, 6), [((1,), (0, 1)), ((2,), (2,))]),
        ((2, 3, 4), (6, 4), [((0, 1), (0,)), ((2,), (1,))]),
        ((4, 6), (6, 4), [((0, 1), (0, 1))]),
        ((1, 1), (1,), []),
    ],
)
def test_blocks(old, new, expected):
    assert [tuple(b) for b in blocks(old, new)] == expected


def test_reshaped_orders_split_channels_in_place():
    old, new = (1, 6, 4, 5), (1, 2, 3, 4, 5)
    before, after = reshaped_orders(blocks(old, new), old, new, (0, 2, 3, 1))
    assert before == (0, 2, 3, 1)
    assert [a for a in after if new[a] != 1] == [3, 4, 1, 2]
