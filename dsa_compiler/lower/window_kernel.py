"""The kernel of pooling and depthwise convolution: windows over a channel-last image, on the vector engine.

A tile is some rows of one image (all columns if they fit) and a slice of channels. The input rows under it are
loaded with their padding, so that windows never reach outside the tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx import PrimFunc

from dsa_compiler.errors import Infeasible
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

    `reduction` is "max", "sum" or "multiply" (depthwise: taps [kh, kw, c], multiplied and summed).
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
        self.tiles = problem.images * self.row_blocks * self.column_blocks * self.channel_blocks
        self.per_core = ceil_div(self.tiles, tiling.cores)

    def build(self, name: str, parameters: Sequence[Buffer]) -> PrimFunc:
        """The kernel over `parameters`, the ddr buffers in the order of the call."""
        body = core_loop("core", self.t.cores, 1, lambda core: tile_loop("tile", self.per_core, lambda t: self._tile(core, t)))
        return function(name, parameters, body)

    def _pitch(self, extent: int, dtype: str) -> int:
        return self.target.pitch(extent, item_bytes(dtype))

    def _tile(self, core: Expr, step: Expr) -> Stmt:
        number = core * self.per_core + step
        xb, rest = _part(number, self.column_blocks)
        rb, rest = _part(rest, self.row_blocks)
        image, cb = _part(rest, self.p.images)
        y0, x0, c0 = rb * self.t.rows, xb * self.t.columns, cb * self.t.channels
        p, t = self.p, self.t
        src1 = buffer("src1", (p.rows_in(t.rows), p.columns_in(t.columns), self._pitch(t.channels, p.dtype)), p.dtype, "l1")
        stmts = [allocate(src1, 2), self._load(src1, image, y0, x0, c0)]
        taps1 = None
        if self.o.taps is not None:
            dtype = str(self.o.taps.dtype)
            taps1 = buffer("taps1", (*p.kernel, self._pitch(t.channels, dtype)), dtype, "l1")
            stmts += [allocate(taps1, 2), self._load_taps(taps1, c0, dtype)]
        body = sequence(*stmts, self._compute(src1, taps1, image, y0, x0, c0))
        return when([below(number, self.tiles, t.cores * self.per_core - 1)], body)

    def _load(self, src1: Buffer, image: Expr, y0: Expr, x0: Expr, c0: Expr) -> Stmt:
        p, t = self.p, self.t
        top, left = y0 * p.stride[0] - p.pad[0], x0 * p.stride[1] - p.pad[1]
        neutral = constant(lowest(p.dtype) if p.reduction == "max" else 0.0, p.dtype)

        def element(y: Expr, x: Expr, c: Expr) -> Stmt:
            yy, xx = top + y, left + x
            value = self.o.src[tuple(self.o.src_index(image, yy, xx, c0 + c))]
            guards = [below(c0 + c, p.channels, self.channel_blocks * t.channels - 1)]
            if p.padded:
                inside = tirx.all(yy >= 0, yy < p.height, xx >= 0, xx < p.width)
                value = tirx.if_then_else(inside, value, neutral)
            else:
                guards.append(below(yy, p.height, (self.row_blocks * t.rows - 1) * p.stride[0] + p.rows_in(1) - 1))
                guards.append(below(xx, p.width, (self.column_blocks * t.columns - 1) * p.stride[1] + p.columns_in(1) - 1))
            return when(guards, store(src1, [y, x, c], value))

        return nest([("y", p.rows_in(t.rows)), ("x", p.columns_in(t.columns)), ("c", t.channels)], element)

    def _load_taps(self, taps1: Buffer, c0: Expr, dtype: str) -> Stmt:
        p, t, taps = self.p, self.t, self.o.taps

        def element(kh: Expr, kw: Expr, c: Expr) -> Stmt:
            guard = below(c0 + c, p.channels, self.channel_blocks * t.channels - 1)
            return when([guard], store(taps1, [kh, kw, c], taps[kh, kw, c0 + c]))

        del dtype
        return nest([("kh", p.kernel[0]), ("kw", p.kernel[1]), ("c", t.channels)], element)

    def _inside(self, y0: Expr, x0: Expr, c0: Expr) -> Callable[[Expr, Expr, Expr], list[Expr]]:
        p, t = self.p, self.t
        return lambda r, w, c: [
            below(y0 + r, p.out_height, self.row_blocks * t.rows - 1),
            below(x0 + w, p.out_width, self.column_blocks * t.columns - 1),
            below(c0 + c, p.channels, self.channel_blocks * t.channels - 1),
        ]

    def _compute(self, src1: Buffer, taps1: Buffer | None, image: Expr, y0: Expr, x0: Expr, c0: Expr) -> Stmt:
        p, t, o = self.p, self.t, self.o
        inside = self._inside(y0, x0, c0)
        axes = [("r", t.rows), ("w", t.columns), ("c", t.channels)]
        wide = p.reduction != "max" and p.dtype != "float32"
        acc_dtype = "float32" if wide else p.dtype
        acc = buffer("acc1", (t.rows, t.columns, self._pitch(t.channels, acc_dtype)), acc_dtype, "l1")
        first = constant(lowest(acc_dtype) if p.reduction == "max" else 0.0, acc_dtype)
        init = nest(axes, lambda r, w, c: when(inside(r, w, c), store(acc, [r, w, c], first)))

        def window(r: Expr, w: Expr, c: Expr, kh: Expr, kw: Expr) -> Stmt:
            value = src1[r * p.stride[0] + kh * p.dilation[0], w * p.stride[1] + kw * p.dilation[1], c]
            value = cast(value, acc_dtype)
            if p.reduction == "max":
                result = tirx.max(acc[r, w, c], value)
            elif p.reduction == "sum":
                result = acc[r, w, c] + value
            else:
                result = acc[r, w, c] + value * cast(taps1[kh, kw, c], acc_dtype)
            return when(inside(r, w, c), store(acc, [r, w, c], result))

        reduce_axes = [("kh", p.kernel[0]), ("kw", p.kernel[1])]
        reduced = sequence(allocate(acc, 2), init, nest([*axes, *reduce_axes], window))
        return sequence(reduced, self._finish(acc, inside, image, y0, x0, c0))

    def _finish(self, acc: Buffer, inside: Callable[..., list[Expr]], image: Expr, y0: Expr, x0: Expr, c0: Expr) -> Stmt:
        t, o = self.t, self.o
        dtype, acc_dtype = str(o.out.dtype), str(acc.dtype)
        axes = [("r", t.rows), ("w", t.columns), ("c", t.channels)]
        at = lambda r, w, c: (image, y0 + r, x0 + w, c0 + c)  # noqa: E731
        stmts: list[Stmt] = []
        result = acc
        if o.epilogue is not None or dtype != acc_dtype:
            values = []
            for number, extra in enumerate(o.extras):
                tile, load = self._load_extra(number, extra, inside, at)
                stmts += [allocate(tile, 2), load]
                values.append((tile, extra.varies))
            result = buffer("out1", (t.rows, t.columns, self._pitch(t.channels, dtype)), dtype, "l1")

            def compute(r: Expr, w: Expr, c: Expr) -> Stmt:
                value = acc[r, w, c]
                if o.epilogue is not None:
                    value = o.epilogue(value, [_at(tile, varies, r, w, c) for tile, varies in values])
                return when(inside(r, w, c), store(result, [r, w, c], cast(value, dtype)))

            stmts += [allocate(result, 2), nest(axes, compute)]
        back = nest(axes, lambda r, w, c: when(inside(r, w, c), store(o.out, o.out_index(*at(r, w, c)), result[r, w, c])))
        return sequence(*stmts, back)

    def _load_extra(
        self, number: int, extra: WindowExtra, inside: Callable[..., list[Expr]], at: Callable[..., tuple[Expr, ...]]
    ) -> tuple[Buffer, Stmt]:
        t = self.t
        dtype = str(extra.source.dtype)
        shape = [e if name in extra.varies else 1 for name, e in zip("yxc", (t.rows, t.columns, t.channels), strict=True)]
        tile = buffer(f"extra{number}", (*shape[:2], self._pitch(shape[2], dtype)), dtype, "l1")

        def element(r: Expr, w: Expr, c: Expr) -> Stmt:
            guards = [g for g, name in zip(inside(r, w, c), "yxc", strict=True) if name in extra.varies]
            return when(guards, store(tile, [r, w, c], extra.source[tuple(extra.index(*at(r, w, c)))]))

        return tile, nest(list(zip("rwc", shape, strict=True)), element)


def _at(tile: Buffer, varies: frozenset[str], r: Expr, w: Expr, c: Expr) -> Expr:
    zero = integer(0)
    return tile[r if "y" in varies else zero, w if "x" in varies else zero, c if "c" in varies else zero]


def _part(number: Expr, count: int) -> tuple[Expr, Expr]:
    """Remainder and quotient by `count`."""
    if count == 1:
        return integer(0), number
    return tirx.floormod(number, integer(count)), tirx.floordiv(number, integer(count))


def lowest(dtype: str) -> float:
    """The least finite value of a dtype: the neutral element of max."""
    limits = {"float16": -65504.0, "float32": -3.4028234663852886e38, "bfloat16": -3.3895313892515355e38,
              "int8": -128, "uint8": 0, "int32": -(2**31)}  # fmt: skip
    return limits[dtype]


def choose_window_tiling(problem: WindowProblem, extras: int, target: Target, *, rank: int = 0) -> WindowTiling:
    """Rows, columns and channels of least estimated time, or the choice `rank` places behind it.

    Raises `Infeasible` if not even one output pixel of one row of channels fits L1.
    """
    model = _WindowModel(problem, extras, target)
    ranked = sorted(model.candidates(), key=model.cycles)
    if rank >= len(ranked):
        raise Infeasible("l1", model.bytes(WindowTiling(1, 1, 1, 1)), target.memory["l1"].size, where="lower.window_kernel")
    return ranked[rank]


class _WindowModel:
    def __init__(self, problem: WindowProblem, extras: int, target: Target) -> None:
        self.p, self.extras, self.target = problem, extras, target
        self.item = item_bytes(problem.dtype)

    def candidates(self) -> Iterator[WindowTiling]:
        """Tilings whose buffers fit L1."""
        p, target = self.p, self.target
        unit = target.row_elements(self.item)
        channels = sorted({p.channels, *(min(p.channels, ceil_div(ceil_div(p.channels, j), unit) * unit) for j in (2, 3, 4, 6, 8, 12, 16, 32, 64))})
        rows = sorted({ceil_div(p.out_height, j) for j in (1, 2, 3, 4, 6, 7, 8, 12, 14, 16, 24, 28, 32, 56, 64, 112, p.out_height)})
        for c in channels:
            for columns in sorted({ceil_div(p.out_width, j) for j in (1, 2, 4, 8, 16)}):
                for r in rows:
                    tiling = WindowTiling(r, columns, c, 1)
                    tiling = replace(tiling, cores=min(target.cores, self._tiles(tiling)))
                    if self.bytes(tiling) <= target.memory["l1"].size:
                        yield tiling

    def _tiles(self, t: WindowTiling) -> int:
        p = self.p
        return p.images * ceil_div(p.out_height, t.rows) * ceil_div(p.out_width, t.columns) * ceil_div(p.channels, t.channels)

    def bytes(self, t: WindowTiling) -> int:
        """L1 bytes of a tile's buffers with their rings."""
        p, pitch = self.p, self.target.pitch
        source = p.rows_in(t.rows) * p.columns_in(t.columns) * pitch(t.channels, self.item) * self.item
        out = t.rows * t.columns * pitch(t.channels, 4)
        taps = p.kernel[0] * p.kernel[1] * pitch(t.channels, self.item) * self.item if p.reduction == "multiply" else 0
        wide = 4 if p.reduction != "max" else self.item
        return 2 * (source + taps + out * (wide + self.item * (2 + self.extras))) + 4096

    def cycles(self, t: WindowTiling) -> float:
        """Estimated time: the busiest of vector engine, ports and ddr, plus the first load and the last store."""
        p, target = self.p, self.target
        vector, ddr = target.engine.vector, target.memory["ddr"].bandwidth
        steps = ceil_div(self._tiles(t), t.cores)
        wide = 4 if p.reduction != "max" and self.item < 4 else self.item
        aligned = target.pitch(t.channels, wide) == t.channels
        runs = 1 if aligned else t.rows * t.columns
        run = t.rows * t.columns * t.channels // runs * wide
        tap = runs * (vector.row_overhead + ceil_div(run, vector.width))
        compute = (p.kernel[0] * p.kernel[1] + 2 + 2 * self.extras) * (tap + vector.startup / 4)
        source = p.rows_in(t.rows) * p.columns_in(t.columns) * target.pitch(t.channels, self.item) * self.item
        out = t.rows * t.columns * target.pitch(t.channels, self.item) * self.item
        port = target.engine.load.port_bandwidth
        shared = (source + out * (1 + self.extras)) * t.cores / ddr
        step = max(compute, source / port, out / port, shared)
        return steps * step + source * t.cores / ddr + out * t.cores / ddr + 2 * target.memory["ddr"].latency
