"""How the axes of a reshape correspond."""

from __future__ import annotations

from typing import NamedTuple

Order = tuple[int, ...]


class Block(NamedTuple):
    """Axes of the old shape that together become axes of the new one, both consecutive; no smaller block does."""

    old: tuple[int, ...]
    new: tuple[int, ...]


def blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[Block]:
    """Return the finest division of a reshape into blocks, axes of extent 1 left out.

    Example: (1, 8, 6) to (2, 4, 6) gives [(1,) -> (0, 1), (2,) -> (2,)].
    """
    left = [i for i, n in enumerate(old) if n != 1]
    right = [i for i, n in enumerate(new) if n != 1]
    result: list[Block] = []
    i = j = 0
    while i < len(left) and j < len(right):
        a, b, first, second = old[left[i]], new[right[j]], i, j
        while a != b:
            if a < b:
                i += 1
                a *= old[left[i]]
            else:
                j += 1
                b *= new[right[j]]
        i, j = i + 1, j + 1
        result.append(Block(tuple(left[first:i]), tuple(right[second:j])))
    return result


def reshaped_orders(
    parts: list[Block], old: tuple[int, ...], new: tuple[int, ...], order: Order
) -> tuple[Order, Order]:
    """Return the order that the old value must have and the order that the reshaped one then has.

    The axes of each block must lie side by side in their own order; if they do not, the block gathers at its
    first axis in `order`. If nothing is to be gathered the first result is `order` itself.
    """
    units = [x for x in order if old[x] == 1]
    wide = [x for x in order if old[x] != 1]
    by_axis = {x: block for block in parts for x in block.old}
    placed: list[Block] = []
    for x in wide:
        if by_axis[x] not in placed:
            placed.append(by_axis[x])
    gathered = [x for block in placed for x in block.old]
    before = order if gathered == wide else tuple(units + gathered)
    return before, _with_units([x for block in placed for x in block.new], new)


def _with_units(wide: list[int], shape: tuple[int, ...]) -> Order:
    """Insert the axes of extent 1 into an order of the others, each behind the axis that precedes it in `shape`."""
    result = list(wide)
    for axis, extent in enumerate(shape):
        if extent == 1:
            result.insert(result.index(axis - 1) + 1 if axis else 0, axis)
    return tuple(result)
