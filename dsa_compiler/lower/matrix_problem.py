"""Products and convolutions as the matrix kernel sees them: shapes, the choices of a tiling, operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dsa_compiler.lower.tir import Buffer, Expr


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class Lines:
    """An image read by lines: see `lower.lines`.

    `planes` lines of `extent` elements each make an image row; a phase starts `step` elements behind the one before,
    the first `offset` elements before the line. The result has `out_width` columns, every `phases`-th of one phase.
    """

    planes: int
    extent: int
    step: int
    offset: int
    phases: int
    out_width: int


@dataclass(frozen=True)
class MatrixProblem:
    """Shapes of `batches` problems, each a convolution of `images` x `height` x `width` x `channels`.

    `pad` is (top, left): rows and columns of zeros before the input; those behind follow from the output size.
    `source_channels`, if not 0, are the channels that exist; those up to `channels` are zeros, which make a pixel
    a multiple of 8 bytes for the img2col move. With `lines`, a pixel is a group of elements of a line, and batches
    are phases that share their weights. The right operand has the left one's dtype unless `right_dtype` names its
    own. Integers sum left * (right - zero_b), and padding has the value `pad_value`.

    With `diagonal` each output channel sums one input channel (depthwise): channels go by blocks of so many, each
    block a product with a matrix that is diagonal for each tap, which the kernel makes from the taps.
    """

    batches: int
    images: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dtype: str = "float16"
    accumulator: str = "float32"
    source_channels: int = 0
    lines: Lines | None = None
    right_dtype: str = ""
    pad_value: int = 0
    zero_b: int = 0
    diagonal: int = 0

    @property
    def depth(self) -> int:
        """Input channels that a product sums over, those of a diagonal block included."""
        return self.diagonal or self.channels

    @property
    def b_dtype(self) -> str:
        """The dtype of the right operand."""
        return self.right_dtype or self.dtype

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all batches."""
        reduction = (1 if self.diagonal else self.channels) * self.kernel[0] * self.kernel[1]
        return self.batches * self.images * self.out_height * self.out_width * self.out_channels * reduction

    def rows_in(self, rows: int) -> int:
        """Input rows under `rows` output rows."""
        return (rows - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1

    def columns_in(self, columns: int) -> int:
        """Input columns under `columns` output columns."""
        return (columns - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1

    @property
    def padded(self) -> bool:
        """Whether any window reaches outside the input."""
        return (
            self.pad != (0, 0)
            or self.rows_in(self.out_height) > self.height
            or self.columns_in(self.out_width) > self.width
        )


@dataclass(frozen=True)
class MatrixTiling:
    """The choices of one kernel; extents in elements.

    `cores` (b, m, n); a piece is `piece_rows` x `piece_columns` of output; an l0 tile `rows` x `columns` by `n`
    by `taps` (kh, kw) x `c`; a panel holds `panel` chunks of `n`. `stream_a`, `stream_b`: load with every k chunk
    instead of keeping piece or panel.
    """

    cores: tuple[int, int, int]
    piece_rows: int
    piece_columns: int
    rows: int
    columns: int
    n: int
    panel: int
    taps: tuple[int, int]
    c: int
    panel_outer: bool = True
    stream_a: bool = False
    stream_b: bool = False
    ring_a: int = 2
    ring_b: int = 1
    ring_out: int = 2
    ring_l0: int = 2
    ring_acc: int = 2


@dataclass(frozen=True)
class Point:
    """Coordinates of one output element: what an epilogue's operand is indexed with."""

    b: Expr
    image: Expr
    y: Expr
    x: Expr
    n: Expr


Index = Callable[[Point], Sequence[Expr]]


@dataclass(frozen=True)
class Extra:
    """An operand of the epilogue: `index` into `source`; `varies` names the coordinates it depends on."""

    source: Buffer
    index: Index
    varies: frozenset[str]


@dataclass(frozen=True)
class MatrixOperands:
    """How the kernel reaches its tensors in ddr.

    `a_index(b, image, y, x, c)` and `b_index(b, k, n)` index `a` and `b`. A constant `b` is laid out by chunks
    [batches, n chunks, k chunks, k, pitch of n] and has no `b_index`. `bias` is [batches, n chunks, n],
    of the accumulator's dtype.
    `a_transposed` (products only): the innermost dimension of `a` is the row. `b_transposed`: that of `b` is k.
    `mask` (of a diagonal problem) is true on the diagonal of a block; its `b` holds rows of taps by chunks [1,
    n chunks, k chunks, taps, pitch of n].
    `epilogue(acc, extras)` is the value stored at a point; with `round_first`, of the accumulator rounded to the
    result's dtype, as the model computes it: a slow operator takes half the time on elements half as wide.
    """

    a: Buffer
    a_index: Callable[..., Sequence[Expr]]
    b: Buffer
    b_index: Callable[..., Sequence[Expr]] | None
    out: Buffer
    out_index: Index
    bias: Buffer | None = None
    a_transposed: bool = False
    b_transposed: bool = False
    extras: tuple[Extra, ...] = ()
    epilogue: Callable[[Expr, Sequence[Expr]], Expr] | None = None
    round_first: bool = False
    mask: Buffer | None = None
