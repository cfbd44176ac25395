"""The kernel of pooling and depthwise convolution: windows over a channel-last image, on the vector engine.

A tile is some rows of one image (all columns if they fit) and a slice of channels. The input rows under it are
loaded with their padding, so that windows never reach outside the tile; channels are padded to whole L1 rows, so
that the pixels of a result join into one run. What depends on channels alone is loaded once if a tile holds all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import PrimFunc

from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.lower.tile_kernel import ceil_div
from dsa_compiler.lower.tir import (
    Buffer,
    Expr,
    Stmt,
    allocate,
    below,
    buffer,
    cast,
    constant,
    core_loop,
    function,
    integer,
    nest,
    sequence,
    store,
    tile_loop,
    when,
)
from dsa_compiler.target import Target


@dataclass(frozen=True)
class WindowProblem:
    """Windows `kernel` over `images` x `height` x `width` x `channels`, `pad` rows and columns before the input.

    `reduction` is "max", "sum" or "multiply" (depthwise: taps [kh, kw, c], multiplied and summed; padding has the
    value `pad_value`). `narrowest` is the least item size in bytes of all tensors that a tile holds rows of.
    """

    images: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    reduction: str
    dtype: str
    pad_value: int = 0
    narrowest: int = 2

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
class WindowTiling:
    """Output rows, columns and channels of a tile, over `cores` cores; channels vary slowest."""

    rows: int
    columns: int
    channels: int
    cores: int


@dataclass(frozen=True)
class WindowExtra:
    """An operand of the epilogue: `index(image, y, x, c)` into `source`; `varies` among those names."""

    source: Buffer
    index: Callable[..., Sequence[Expr]]
    varies: frozenset[str]


@dataclass(frozen=True)
class WindowOperands:
    """Tensors in ddr: `src_index` and `out_index` take (image, y, x, c); `taps` is [kh, kw, pitch of c]."""

    src: Buffer
    src_index: Callable[..., Sequence[Expr]]
    out: Buffer
    out_index: Callable[..., Sequence[Expr]]
    taps: Buffer | None = None
    extras: tuple[WindowExtra, ...] = ()
    epilogue: Callable[[Expr, Sequence[Expr]], Expr] | None = None


class WindowKernel:
    """Builds the PrimFunc of one windowed layer."""

    def __init__(self, problem: WindowProblem, tiling: WindowTiling, operands: WindowOperands, target: Target) -> None:
        self.p, self.t, self.o, self.target = problem, tiling, operands, target
        self.row_blocks = ceil_div(problem.out_height, tiling.rows)
        self.column_blocks = ceil_div(problem.out_width, tiling.columns)
        self.channel_blocks = ceil_div(problem.channels, tiling.channels)
        self.depth = tile_depth(problem, tiling.channels, target)
        self.once = self.channel_blocks == 1
        self.acc_dtype = accumulator_dtype(problem)
        self.tiles = problem.images * self.row_blocks * self.column_blocks * self.channel_blocks
        self.per_core = ceil_div(self.tiles, tiling.cores)

    def build(self, name: str, parameters: Sequence[Buffer]) -> PrimFunc:
        """The kernel over `parameters`, the ddr buffers in the order of the call."""

        def one_core(core: Expr) -> Stmt:
            fixed, loads = self._channel_operands(integer(0)) if self.once else ({}, [])
            return sequence(*loads, tile_loop("tile", self.per_core, lambda t: self._tile(core, t, fixed)))

        return function(name, parameters, core_loop("core", self.t.cores, 1, one_core))

    def _tile(self, core: Expr, step: Expr, fixed: Mapping[str, Buffer]) -> Stmt:
        number = core * self.per_core + step
        xb, rest = _part(number, self.column_blocks)
        rb, rest = _part(rest, self.row_blocks)
        image, cb = _part(rest, self.p.images)
        p, t = self.p, self.t
        y0, x0, c0 = rb * t.rows, xb * t.columns, cb * t.channels if self.channel_blocks > 1 else integer(0)
        src1 = buffer("src1", (p.rows_in(t.rows), p.columns_in(t.columns), self.depth), p.dtype, "l1")
        stmts = [allocate(src1, 2), self._load(src1, image, y0, x0, c0)]
        if not self.once:
            fixed, loads = self._channel_operands(c0)
            stmts += loads
        body = sequence(*stmts, self._compute(src1, fixed, image, y0, x0, c0))
        return when([below(number, self.tiles, t.cores * self.per_core - 1)], body)

    def _in_channels(self, c0: Expr, c: Expr) -> Expr:
        """Whether a channel of the tile exists."""
        return below(c0 + c, self.p.channels, (self.channel_blocks - 1) * self.t.channels + self.depth - 1)

    def _padded(self, c0: Expr, c: Expr, value: Expr, neutral: Expr) -> Expr:
        """`value` in the channels that exist, `neutral` in the others."""
        exists = self._in_channels(c0, c)
        return value if exists is True else tirx.if_then_else(exists, value, neutral)

    def _load(self, src1: Buffer, image: Expr, y0: Expr, x0: Expr, c0: Expr) -> Stmt:
        p, t = self.p, self.t
        top, left = y0 * p.stride[0] - p.pad[0], x0 * p.stride[1] - p.pad[1]
        neutral = constant(lowest(p.dtype) if p.reduction == "max" else p.pad_value, p.dtype)

        def element(y: Expr, x: Expr, c: Expr) -> Stmt:
            yy, xx = top + y, left + x
            value = self.o.src[tuple(self.o.src_index(image, yy, xx, c0 + c))]
            guards: list[Expr] = []
            if p.padded:
                exists = self._in_channels(c0, c)
                inside = [yy >= 0, yy < p.height, xx >= 0, xx < p.width, *([] if exists is True else [exists])]
                value = tirx.if_then_else(tirx.all(*inside), value, neutral)
            else:
                value = self._padded(c0, c, value, neutral)
                guards.append(below(yy, p.height, (self.row_blocks * t.rows - 1) * p.stride[0] + p.rows_in(1) - 1))
                guards.append(
                    below(xx, p.width, (self.column_blocks * t.columns - 1) * p.stride[1] + p.columns_in(1) - 1)
                )
            return when(guards, store(src1, [y, x, c], value))

        return nest([("y", p.rows_in(t.rows)), ("x", p.columns_in(t.columns)), ("c", self.depth)], element)

    # ---- operands that depend on channels alone --------------------------------------------------------------
    def _channel_operands(self, c0: Expr) -> tuple[dict[str, Buffer], list[Stmt]]:
        """Taps, and operands of the epilogue with a value for each channel, by name; their loads."""
        found: dict[str, Buffer] = {}
        stmts: list[Stmt] = []
        if self.o.taps is not None:
            found["taps"], load = self._load_taps(self.o.taps, c0)
            stmts += [allocate(found["taps"], 1 if self.once else 2), load]
        for number, extra in enumerate(self.o.extras):
            if extra.varies <= {"c"}:
                tile, load = self._load_vector(number, extra, c0)
                found[f"extra{number}"] = tile
                stmts += [allocate(tile, 1 if self.once else 2), load]
        return found, stmts

    def _load_taps(self, taps: Buffer, c0: Expr) -> tuple[Buffer, Stmt]:
        """The taps' tile; in ddr they are as wide as all tiles."""
        taps1 = buffer("taps1", (*self.p.kernel, self.depth), str(taps.dtype), "l1")
        axes = [("kh", self.p.kernel[0]), ("kw", self.p.kernel[1]), ("c", self.depth)]
        return taps1, nest(axes, lambda kh, kw, c: store(taps1, [kh, kw, c], taps[kh, kw, c0 + c]))

    def _load_vector(self, number: int, extra: WindowExtra, c0: Expr) -> tuple[Buffer, Stmt]:
        """A value for each channel, repeated along the columns if loaded once, so that rows of the tile are runs."""
        zero, dtype = integer(0), str(extra.source.dtype)
        channels = self.depth if "c" in extra.varies else 1
        columns = self.t.columns if self.once and channels > 1 else 1
        width = self.depth if channels > 1 else self.target.pitch(1, item_bytes(dtype))
        tile = buffer(f"extra{number}", (1, columns, width), dtype, "l1")

        def element(w: Expr, c: Expr) -> Stmt:
            value = extra.source[tuple(extra.index(zero, zero, zero, c0 + c))]
            if channels > 1:
                value = self._padded(c0, c, value, constant(0, dtype))
            return store(tile, [zero, w, c], value)

        return tile, nest([("w", columns), ("c", channels)], element)

    # ---- the computation -------------------------------------------------------------------------------------
    def _inside(self, y0: Expr, x0: Expr) -> Callable[[Expr, Expr], list[Expr]]:
        p, t = self.p, self.t
        return lambda r, w: [
            below(y0 + r, p.out_height, self.row_blocks * t.rows - 1),
            below(x0 + w, p.out_width, self.column_blocks * t.columns - 1),
        ]

    def _compute(self, src1: Buffer, fixed: Mapping[str, Buffer], image: Expr, y0: Expr, x0: Expr, c0: Expr) -> Stmt:
        p, t, acc_dtype = self.p, self.t, self.acc_dtype
        inside = self._inside(y0, x0)
        axes = [("r", t.rows), ("w", t.columns), ("c", self.depth)]
        acc = buffer("acc1", (t.rows, t.columns, self.depth), acc_dtype, "l1")
        first = constant(lowest(acc_dtype) if p.reduction == "max" else 0, acc_dtype)

        def window(r: Expr, w: Expr, c: Expr, kh: Expr, kw: Expr) -> Stmt:
            value = src1[r * p.stride[0] + kh * p.dilation[0], w * p.stride[1] + kw * p.dilation[1], c]
            value = cast(value, acc_dtype)
            if p.reduction == "max":
                result = tirx.max(acc[r, w, c], value)
            elif p.reduction == "sum":
                result = acc[r, w, c] + value
            else:
                result = acc[r, w, c] + value * cast(fixed["taps"][kh, kw, c], acc_dtype)
            return when(inside(r, w), store(acc, [r, w, c], result))

        reduce_axes = [("kh", p.kernel[0]), ("kw", p.kernel[1])]

        def element(r: Expr, w: Expr, c: Expr) -> Stmt:
            init = when(inside(r, w), store(acc, [r, w, c], first))
            return sequence(init, nest(reduce_axes, lambda kh, kw: window(r, w, c, kh, kw)))

        reduced = sequence(allocate(acc, 2), nest(axes, element))
        return sequence(reduced, self._finish(acc, fixed, image, y0, x0, c0))

    def _finish(self, acc: Buffer, fixed: Mapping[str, Buffer], image: Expr, y0: Expr, x0: Expr, c0: Expr) -> Stmt:
        """The epilogue, in place where the result has the accumulator's dtype, and the store."""
        t, o, inside = self.t, self.o, self._inside(y0, x0)
        dtype = str(o.out.dtype)
        at: Callable[..., tuple[Expr, ...]] = lambda r, w, c: (image, y0 + r, x0 + w, c0 + c)  # noqa: E731
        stmts: list[Stmt] = []
        result = acc
        if o.epilogue is not None or dtype != self.acc_dtype:
            values = []
            for number, extra in enumerate(o.extras):
                tile = fixed.get(f"extra{number}")
                if tile is None:
                    tile, load = self._load_extra(number, extra, inside, at)
                    stmts += [allocate(tile, 2), load]
                values.append(tile)
            if dtype != self.acc_dtype:
                result = buffer("out1", (t.rows, t.columns, self.depth), dtype, "l1")
                stmts.append(allocate(result, 2))

            def compute(r: Expr, w: Expr, c: Expr) -> Stmt:
                value = acc[r, w, c]
                if o.epilogue is not None:
                    places = [_at(tile, e.varies, r, w, c) for tile, e in zip(values, o.extras, strict=True)]
                    value = o.epilogue(value, places)
                return when(inside(r, w), store(result, [r, w, c], cast(value, dtype)))

            stmts.append(nest([("r", t.rows), ("w", t.columns), ("c", self.depth)], compute))

        def back(r: Expr, w: Expr, c: Expr) -> Stmt:
            exists = below(c0 + c, self.p.channels, self.channel_blocks * t.channels - 1)
            return when([*inside(r, w), exists], store(o.out, o.out_index(*at(r, w, c)), result[r, w, c]))

        return sequence(*stmts, nest([("r", t.rows), ("w", t.columns), ("c", t.channels)], back))

    def _load_extra(
        self, number: int, extra: WindowExtra, inside: Callable[..., list[Expr]], at: Callable[..., tuple[Expr, ...]]
    ) -> tuple[Buffer, Stmt]:
        t = self.t
        dtype = str(extra.source.dtype)
        shape = [
            e if name in extra.varies else 1 for name, e in zip("yxc", (t.rows, t.columns, self.depth), strict=True)
        ]
        width = self.depth if "c" in extra.varies else self.target.pitch(1, item_bytes(dtype))
        tile = buffer(f"extra{number}", (*shape[:2], width), dtype, "l1")

        def element(r: Expr, w: Expr, c: Expr) -> Stmt:
            guards = [g for g, name in zip(inside(r, w), "yx", strict=True) if name in extra.varies]
            image, y, x, channel = at(r, w, c)
            value = extra.source[tuple(extra.index(image, y, x, channel))]
            if "c" in extra.varies:
                value = self._padded(channel - c, c, value, constant(0, dtype))
            return when(guards, store(tile, [r, w, c], value))

        return tile, nest(list(zip("rwc", shape, strict=True)), element)


def accumulator_dtype(problem: WindowProblem) -> str:
    """What windows are reduced into: a 16-bit result rounds once, from float32; sums of many are kept in float32."""
    if problem.reduction == "multiply" and problem.dtype in ("int8", "uint8"):
        return "int32"
    return "float32" if problem.reduction == "sum" else problem.dtype


def tile_depth(problem: WindowProblem, channels: int, target: Target) -> int:
    """Channels of a tile's buffers: whole L1 rows of the narrowest dtype."""
    unit = target.row_elements(min(item_bytes(problem.dtype), problem.narrowest))
    return ceil_div(channels, unit) * unit


def _at(tile: Buffer, varies: frozenset[str], r: Expr, w: Expr, c: Expr) -> Expr:
    zero = integer(0)
    repeated = varies <= {"c"} and int(tile.shape[1]) > 1
    return tile[r if "y" in varies else zero, w if "x" in varies or repeated else zero, c if "c" in varies else zero]


def _part(number: Expr, count: int) -> tuple[Expr, Expr]:
    """Remainder and quotient by `count`."""
    if count == 1:
        return integer(0), number
    return tirx.floormod(number, integer(count)), tirx.floordiv(number, integer(count))


def lowest(dtype: str) -> float:
    """The least finite value of a dtype: the neutral element of max."""
    limits = {"float16": -65504.0, "float32": -3.4028234663852886e38, "bfloat16": -3.3895313892515355e38,
              "int8": -128, "uint8": 0, "int16": -32768, "int32": -(2**31)}  # fmt: skip
    return limits[dtype]


def greatest(dtype: str) -> float:
    """The greatest finite value of a dtype: the neutral element of min."""
    low = lowest(dtype)
    return -low if dtype.startswith(("float", "bfloat")) else 255 if dtype == "uint8" else -low - 1
