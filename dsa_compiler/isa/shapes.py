"""What is wrong with an instruction's shapes: the `check` functions of the table.

Each takes the operands by role (anything with `scope`, `dtype`, `extents` and `strides`) and the attributes, and
returns a sentence without a full stop, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from dsa_compiler.isa.definition import Attrs

Operands = Mapping[str, Any]
Check = Callable[[Operands, Attrs], "str | None"]

AXES = {"row": -1, "column": -2, "plane": -3}
"""The axis that a reduction named row, column or plane removes: along a row, across rows, across planes."""


def text(extents: tuple[int, ...]) -> str:
    """Extents as they stand in messages."""
    return "x".join(str(e) for e in extents)


def all_of(*checks: Check) -> Check:
    """The first complaint of several checks."""

    def check(operands: Operands, attrs: Attrs) -> str | None:
        return next((m for m in (c(operands, attrs) for c in checks) if m), None)

    return check


def same_extents(operands: Operands, attrs: Attrs) -> str | None:
    """Every operand has the extents of the one written."""
    dst = operands["dst"] if "dst" in operands else operands["acc"]
    for role, operand in operands.items():
        if operand.extents != dst.extents:
            return f"{role} is {text(operand.extents)}, dst is {text(dst.extents)}: extents must agree"
    return None


def same_dtype(operands: Operands, attrs: Attrs) -> str | None:
    """Source and destination have one dtype."""
    src, dst = operands["src"].dtype, operands["dst"].dtype
    return None if src == dst else f"src is {src}, dst is {dst}: the instruction does not convert"


def same_elements(operands: Operands, attrs: Attrs) -> str | None:
    """Source and destination hold as many elements, in whatever views."""
    src, dst = operands["src"].extents, operands["dst"].extents
    if prod(src) != prod(dst):
        return f"src is {text(src)}, dst is {text(dst)}: they hold different numbers of elements"
    return None


def between_memories(operands: Operands, attrs: Attrs) -> str | None:
    """A prefetch copies from ddr to llb or back."""
    src, dst = operands["src"].scope, operands["dst"].scope
    return None if src != dst else f"src and dst are both in {src}: prefetch copies between ddr and llb"


def padded(operands: Operands, attrs: Attrs) -> str | None:
    """The destination is the source with `pad` around it."""
    src, dst, pad = operands["src"].extents, operands["dst"].extents, attrs["pad"]
    if len(pad) != len(src):
        return f"pad has {len(pad)} pairs, src has rank {len(src)}"
    wanted = tuple(e + p[0] + p[1] for e, p in zip(src, pad, strict=True))
    return None if dst == wanted else f"dst is {text(dst)}, src {text(src)} with its padding is {text(wanted)}"


def transposed(operands: Operands, attrs: Attrs) -> str | None:
    """The destination's extents are the source's exchanged."""
    src, dst = operands["src"].extents, operands["dst"].extents
    return None if dst == src[::-1] else f"src is {text(src)}, dst is {text(dst)}: dst must be {text(src[::-1])}"


def row_gather(table: str, rows: str) -> Check:
    """`rows` has a row of `table` for each index."""

    def check(operands: Operands, attrs: Attrs) -> str | None:
        wide, narrow, index = operands[table].extents, operands[rows].extents, operands["index"].extents
        if len(narrow) != 2 or narrow[0] != index[0] or narrow[1] != wide[-1]:
            return f"{rows} is {text(narrow)}: {index[0]} indices of rows of {wide[-1]} need {index[0]}x{wide[-1]}"
        return None

    return check


def window_grid(extents: tuple[int, ...], attrs: Attrs) -> tuple[int, int]:
    """Rows and columns of the whole window grid over a source of those extents [h, w, c]; 0 or less if none fits."""
    kernel, stride, dilation, pad = attrs["kernel"], attrs["stride"], attrs["dilation"], attrs["pad"]
    high = (extents[0] + pad[0] + pad[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    wide = (extents[1] + pad[1] + pad[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    return high, wide


def img2col(operands: Operands, attrs: Attrs) -> str | None:
    """dst is [output pixels, kernel h * kernel w * channels]; the pixel is a multiple of 8 bytes."""
    from dsa_compiler.isa.dtypes import item_bits

    src, dst, kernel = operands["src"].extents, operands["dst"].extents, attrs["kernel"]
    high, wide = window_grid(src, attrs)
    if high < 1 or wide < 1:
        return f"a window of {kernel[0]}x{kernel[1]} does not fit in src {text(src)} with its padding"
    if src[2] * item_bits(operands["src"].dtype) % 64:
        return f"src has pixels of {src[2] * item_bits(operands['src'].dtype) / 8:g} bytes: a multiple of 8 is needed"
    wanted = (high * wide, kernel[0] * kernel[1] * src[2])
    return None if dst == wanted else f"dst is {text(dst)}, the window grid gives {text(wanted)}"


def windowed(operands: Operands, attrs: Attrs) -> str | None:
    """The result is the whole window grid of src; `taps` counts the kernel's; weights are [kh, kw, c]."""
    src, kernel = operands["src"].extents, attrs["kernel"]
    dst = operands["dst" if "dst" in operands else "acc"].extents
    high, wide = window_grid(src, attrs)
    if high < 1 or wide < 1:
        return f"a window of {kernel[0]}x{kernel[1]} does not fit in src {text(src)} with its padding"
    if dst != (high, wide, src[2]):
        return f"the result is {text(dst)}, the window grid gives {text((high, wide, src[2]))}"
    if attrs["taps"] != kernel[0] * kernel[1]:
        return f"taps is {attrs['taps']}, a kernel of {kernel[0]}x{kernel[1]} has {kernel[0] * kernel[1]}"
    weights = operands["taps"].extents if "taps" in operands else (*kernel, src[2])
    wanted = (kernel[0], kernel[1], src[2])
    return None if weights == wanted else f"taps is {text(weights)}, the window needs {text(wanted)}"


def matrix(operands: Operands, attrs: Attrs) -> str | None:
    """lhs [m, k] times rhs [k, n] gives [m, n]; bias is [1, n]; dtypes go together."""
    lhs, rhs = operands["lhs"], operands["rhs"]
    result = operands["dst" if "dst" in operands else "acc"]
    halved = 2 if "index" in operands else 1
    m, k = lhs.extents
    if k % (4 if halved == 2 else 1):
        return f"lhs is {text(lhs.extents)}: a sparse product needs k in whole groups of 4"
    if rhs.extents[0] * halved != k:
        return f"lhs is {text(lhs.extents)}, rhs is {text(rhs.extents)}: rhs needs {k // halved} rows"
    n = rhs.extents[1]
    if result.extents != (m, n):
        return f"the result is {text(result.extents)}, the product is {m}x{n}"
    if "bias" in operands and operands["bias"].extents != (1, n):
        return f"bias is {text(operands['bias'].extents)}, the product needs 1x{n}"
    if "index" in operands and operands["index"].extents != (k // 4, n):
        return f"index is {text(operands['index'].extents)}, the product needs {k // 4}x{n}"
    return _matrix_dtypes(operands, lhs.dtype, rhs.dtype, result.dtype)


def _matrix_dtypes(operands: Operands, left: str, right: str, result: str) -> str | None:
    whole = "int" in left
    if left != right and not (left in ("int8", "uint8") and right in ("int8", "uint8")):
        return f"lhs is {left}, rhs is {right}: only the signedness of 8-bit integers may differ"
    wanted = "int32" if whole else "float32"
    for role in ("dst", "acc", "bias"):
        if role in operands and operands[role].dtype != wanted:
            return f"{role} is {operands[role].dtype}: products of {left} accumulate in {wanted}"
    return None


def reduced(operands: Operands, attrs: Attrs) -> str | None:
    """dst keeps the source's rank, with extent 1 where it was reduced."""
    src, dst, axis = operands["src"].extents, operands["dst"].extents, AXES[attrs["reduce"]]
    if len(src) < -axis:
        return f"src has rank {len(src)}: no {attrs['reduce']} reduction"
    wanted = list(src)
    wanted[axis] = 1
    result = text(tuple(wanted))
    return None if dst == tuple(wanted) else f"dst is {text(dst)}, the reduction of {text(src)} is {result}"


def scanned(operands: Operands, attrs: Attrs) -> str | None:
    """The axis exists and extents agree."""
    if not 0 <= attrs["axis"] < len(operands["src"].extents):
        return f"axis is {attrs['axis']}, src has rank {len(operands['src'].extents)}"
    return same_extents(operands, attrs)


def interleaved(operands: Operands, attrs: Attrs) -> str | None:
    """dst has twice the innermost extent of each source."""
    src, src2, dst = (operands[r].extents for r in ("src", "src2", "dst"))
    wanted = (*src[:-1], 2 * src[-1])
    if src2 != src:
        return f"src is {text(src)}, src2 is {text(src2)}: extents must agree"
    return None if dst == wanted else f"dst is {text(dst)}, interleaved sources are {text(wanted)}"


def deinterleaved(operands: Operands, attrs: Attrs) -> str | None:
    """dst has half the innermost extent of the source; phase is 0 or 1."""
    src, dst = operands["src"].extents, operands["dst"].extents
    if attrs["phase"] not in (0, 1):
        return f"phase is {attrs['phase']}: 0 or 1"
    if dst[:-1] != src[:-1] or 2 * dst[-1] != src[-1]:
        return f"src is {text(src)}, dst is {text(dst)}: dst must have half of src's innermost extent"
    return None


def sorted_stage(operands: Operands, attrs: Attrs) -> str | None:
    """distance is a power of two, pairs are whole, direction is 0 or a multiple of the pair."""
    distance, direction, extents = attrs["distance"], attrs["direction"], operands["src"].extents
    if distance & (distance - 1):
        return f"distance is {distance}: a power of two is needed"
    if extents[-1] % (2 * distance):
        return f"src has rows of {extents[-1]}: distance {distance} needs whole pairs of {2 * distance}"
    if direction and (direction & (direction - 1) or direction < 2 * distance):
        return f"direction is {direction}: 0 or a power of two of at least {2 * distance} is needed"
    return _payload(operands, attrs) or same_extents(operands, attrs)


def merged(operands: Operands, attrs: Attrs) -> str | None:
    """dst keeps at most as many as both sources hold; outer extents agree."""
    src, src2, dst = (operands[r].extents for r in ("src", "src2", "dst"))
    if src[:-1] != dst[:-1] or src2[:-1] != dst[:-1]:
        return f"src is {text(src)}, src2 is {text(src2)}, dst is {text(dst)}: outer extents must agree"
    if dst[-1] > src[-1] + src2[-1]:
        return f"dst keeps {dst[-1]} of {src[-1] + src2[-1]}"
    return _payload(operands, attrs)


def _payload(operands: Operands, attrs: Attrs) -> str | None:
    extents = operands["src"].extents
    if attrs.get("payload") and (len(extents) < 2 or extents[-2] != 2):
        return f"src is {text(extents)}: with a payload it is two rows, keys and payload"
    return None


def looked_up(operands: Operands, attrs: Attrs) -> str | None:
    """src and dst agree; the table is one row."""
    src, dst = operands["src"].extents, operands["dst"].extents
    return None if src == dst else f"src is {text(src)}, dst is {text(dst)}: extents must agree"


def counted(operands: Operands, attrs: Attrs) -> str | None:
    """A scalar entry has an operation for each element at least."""
    least = max(prod(o.extents) for role, o in operands.items() if role in ("dst", "index"))
    if "index" in operands:
        least = prod(operands["index"].extents)
    return f"ops is {attrs['ops']}, {least} elements need as many" if attrs["ops"] < least else None


def one_of_many(operands: Operands, attrs: Attrs) -> str | None:
    """A scalar load or store by index moves one element for each index."""
    rows = operands["index"].extents
    for role in ("dst", "src"):
        other = "src" if role == "dst" else "dst"
        if operands[role].extents == rows or operands[other].extents == rows:
            return None
    return f"index is {text(rows)}: neither src nor dst has an element for each index"
