"""Random programs that run to their end: sets come before their waits in one global order."""

from __future__ import annotations

import random
from dataclasses import replace

from dsa_compiler.isa.dtypes import item_bytes
from dsa_compiler.program.builder import Flag, Operand, ProgramBuilder
from dsa_compiler.program.tables import Binding, HostStep, Program
from dsa_compiler.target import CORE_ENGINES, Target, load_target

UP = ("float32", "float16", "int8")


class RandomProgram:
    """Builds one program from a seed."""

    def __init__(self, seed: int, target: str | Target = "npu-v1", cores: int = 3, clusters: int = 2) -> None:
        self.rng = random.Random(seed)
        self.part = load_target(target)
        self.clusters = min(clusters, self.part.clusters)
        self.cores = min(cores, self.part.cores_per_cluster)
        self.builder = ProgramBuilder(self.part)
        self.open: list[tuple[str, int, int, Flag]] = []
        self.group = 0
        self.segment = 0

    # -- operands

    def shape(self, elements_from: tuple[int, ...] | None = None) -> tuple[int, ...]:
        if elements_from is not None:
            return elements_from
        rank = self.rng.randrange(1, 4)
        outer = [1, 2, 3, 5, 8, 17] if rank == 3 else [1, 2, 3, 17, 40]
        return (*(self.rng.choice(outer) for _ in range(rank - 1)), self.rng.choice([1, 3, 16, 56, 130]))

    def operand(
        self, role: str, scope: str, dtype: str, extents: tuple[int, ...], dense: bool | None = None
    ) -> Operand:
        memory = self.part.memory[scope]
        size = item_bytes(dtype)
        grain = size if scope in ("ddr", "llb") else memory.alignment
        address = self.rng.randrange(0, memory.size // 4 // grain) * grain
        strides = [size]
        for extent in reversed(extents[1:]):
            step = strides[0] * extent
            if dense is False or (dense is None and self.rng.random() < 0.5):
                step += self.rng.choice([grain, 3 * grain])
            strides.insert(0, -(-step // grain) * grain)
        return Operand(role, scope, address, dtype, extents, tuple(strides))

    def far(self) -> str:
        return self.rng.choice(["ddr", "llb"]) if self.part.has_llb else "ddr"

    # -- instructions

    def transfer(self, engine: str) -> tuple[str, list[Operand], dict]:
        rng, dtype = self.rng, self.rng.choice(UP)
        shape = self.shape()
        if engine == "prefetch":
            one, two = rng.choice([("ddr", "llb"), ("llb", "ddr")])
        elif engine == "load":
            one, two = self.far(), "l1"
        elif engine == "store":
            one, two = "l1", self.far()
        else:
            one, two = "l1", rng.choice(["l0a", "l0b"])
        src = self.operand("src", one, dtype, shape)
        kind = rng.random()
        if kind < 0.15 and engine != "move":
            place = rng.randrange(100) * 128  # whole bursts: whether a fill moves bytes or bursts is open
            return f"{engine}_fill", [Operand("dst", two, place, dtype, (rng.choice([128, 1024]),))], {"value": 1.0}
        if kind < 0.3 and engine != "move":
            pads = [[rng.randrange(3), rng.randrange(3)] for _ in shape]
            outer = tuple(e + sum(p) for e, p in zip(shape, pads, strict=True))
            return f"{engine}_pad", [self.operand("dst", two, dtype, outer), src], {"pad": pads, "value": 0.0}
        if kind < 0.4 and engine == "load" and self.part.features.transpose_load:
            flat = (shape[0], shape[-1])
            pair = [self.operand("dst", two, dtype, flat[::-1]), self.operand("src", one, dtype, flat)]
            return "load_transpose", pair, {"transpose": True}
        if kind < 0.5 and engine == "store":
            pair = [self.operand("dst", two, "float16", shape), self.operand("src", "l0c", "float32", shape)]
            return "store_round", pair, {}
        if kind < 0.6 and engine in ("load", "store"):
            return self.by_index(engine, one, two, dtype)
        if kind < 0.7:
            return self.name(engine, two), [self.operand("dst", two, dtype, self.reshaped(shape)), src], {}
        return self.name(engine, two), [self.operand("dst", two, dtype, shape), src], {}

    def name(self, engine: str, to: str) -> str:
        return {"l0a": "move_a", "l0b": "move_b"}.get(to, engine)

    def reshaped(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """As many elements in another shape."""
        if len(shape) == 1:
            return shape if shape[0] % 2 else (2, shape[0] // 2)
        return (shape[0] * shape[1], *shape[2:])

    def by_index(self, engine: str, one: str, two: str, dtype: str) -> tuple[str, list[Operand], dict]:
        rows, width = self.rng.choice([3, 20]), self.rng.choice([16, 33, 64])
        table, dense = (100, width), (rows, width)
        index = self.operand("index", "l1", "int32", (rows,))
        if engine == "load":
            operands = [self.operand("dst", two, dtype, dense), self.operand("src", one, dtype, table), index]
            return "load_gather", operands, {}
        operands = [self.operand("dst", two, dtype, table), self.operand("src", "l1", dtype, dense), index]
        return "store_scatter", operands, {}

    def img2col(self) -> tuple[str, list[Operand], dict]:
        rng, dtype = self.rng, "float16"
        kernel, stride, dilation = [rng.choice([1, 3])] * 2, [rng.choice([1, 2])] * 2, [rng.choice([1, 2])] * 2
        pad = [rng.randrange(2) for _ in range(4)]
        h, w, c = rng.choice([6, 9]), rng.choice([7, 12]), rng.choice([4, 8, 20])
        pixel = c * 2 + rng.choice([0, 8])
        src = Operand(
            "src", "l1", rng.randrange(100) * 32, dtype, (h, w, c), (pixel * w + rng.choice([0, 8]), pixel, 2)
        )
        high = (h + pad[0] + pad[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
        wide = (w + pad[1] + pad[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
        dst = self.operand("dst", "l0a", dtype, (high * wide, kernel[0] * kernel[1] * c))
        attrs = {"kernel": kernel, "stride": stride, "dilation": dilation, "pad": pad, "zero_point": 0}
        return "img2col", [dst, src], attrs

    def matrix(self) -> tuple[str, list[Operand], dict]:
        m, n, k = (self.rng.choice([1, 7, 16, 40, 100]) for _ in range(3))
        dtype = self.rng.choice([d for d in ("float16", "float32") if d in self.part.engine.matrix.unit])
        lhs, rhs = self.operand("lhs", "l0a", dtype, (m, k)), self.operand("rhs", "l0b", dtype, (k, n))
        if self.rng.random() < 0.5:
            return "matmul", [self.operand("dst", "l0c", "float32", (m, n)), lhs, rhs], {}
        return "matmul_acc", [self.operand("acc", "l0c", "float32", (m, n)), lhs, rhs], {}

    def vector(self) -> tuple[str, list[Operand], dict]:
        rng, shape = self.rng, self.shape()
        dtypes = [rng.choice(UP[:2]) for _ in range(3)]
        scopes = [rng.choice(["l1", "l1", "l0c"]) for _ in range(3)]
        dst, src, src2 = (
            self.operand(r, s, d, shape) for r, s, d in zip(("dst", "src", "src2"), scopes, dtypes, strict=True)
        )
        kind = rng.randrange(9)
        if kind == 0:
            return "exp", [dst, src], {}
        if kind == 1:
            return "div", [dst, src, src2], {}
        if kind == 2:
            return "reduce_sum", [self.operand("dst", "l1", "float32", (*shape[:-1], 1)), src], {"reduce": "row"}
        if kind == 3:
            return "cumsum", [dst, src], {"axis": 0}
        if kind == 4:
            flat = (shape[0], shape[-1])
            pair = [self.operand("dst", "l1", "float16", flat[::-1]), self.operand("src", "l1", "float16", flat)]
            return "transpose", pair, {}
        if kind == 5:
            flat = shape[-2:]
            return "slide", [self.operand("dst", "l1", "float16", flat), self.operand("src", "l1", "float16", flat)], {}
        if kind == 6:
            return self.windowed()
        if kind == 7:
            return "reduce_max", [self.operand("dst", "l1", "float32", (1,) * len(shape)), src], {"reduce": "plane"}
        if rng.random() < 0.5:
            src2 = replace(src2, strides=(*src2.byte_strides()[:-1], 0))
        return "add", [dst, src, src2], {}

    def windowed(self) -> tuple[str, list[Operand], dict]:
        c = self.rng.choice([4, 24, 96])
        attrs = {"kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "pad": [1, 1, 1, 1], "taps": 9}
        dst, src = (self.operand(r, "l1", "float16", (5, 11, c)) for r in ("dst", "src"))
        if self.rng.random() < 0.5:
            return "pool_max", [dst, src], attrs
        return "depthwise", [dst, src, self.operand("taps", "l1", "float16", (3, 3, c))], {**attrs, "macs": True}

    def scalar(self) -> tuple[str, list[Operand], dict]:
        return "s_branch", [], {"control": self.rng.randrange(1, 20)}

    def instruction(self, engine: str) -> tuple[str, list[Operand], dict]:
        if engine in ("load", "store", "prefetch"):
            return self.transfer(engine)
        if engine == "move":
            return self.img2col() if self.rng.random() < 0.3 else self.transfer("move")
        return {"matrix": self.matrix, "vector": self.vector, "scalar": self.scalar}[engine]()

    # -- flags

    def flags(self, engine: str, cluster: int, core: int) -> tuple[list[Flag], list[Flag]]:
        waits, sets = [], []
        for item in list(self.open):
            waiter, c, k, flag = item
            mine = (waiter, c, k) == (engine, cluster, core)
            if mine and len(waits) < 3 and self.rng.random() < 0.4:
                waits.append(flag)
                self.open.remove(item)
        if self.rng.random() < 0.5 and len(self.open) < 10:
            self.add_set(engine, cluster, core, sets)
        return waits, sets

    def add_set(self, engine: str, cluster: int, core: int, sets: list[Flag]) -> None:
        number = self.rng.randrange(4)
        others = [e for e in CORE_ENGINES if e != engine]
        kind = self.rng.choice(["core", "core", "cluster", "chip"] if engine != "prefetch" else ["cluster", "chip"])
        if kind == "chip" and not self.part.sync.chip_flags:
            kind = "cluster"
        waiter = self.rng.choice(others)
        if kind == "core":
            flag = Flag("core", number, engine, waiter)
            self.open.append((waiter, cluster, core, flag))
        else:
            where = cluster if kind == "cluster" else self.rng.randrange(self.clusters)
            core = self.rng.randrange(self.cores)
            flag = Flag(kind, (where * self.cores + core) * 6 + CORE_ENGINES.index(waiter))
            self.open.append((waiter, where, core, flag))
        sets.append(flag)

    # -- the program

    def multicast(self) -> None:
        rng, shape = self.rng, self.shape()
        cluster = rng.randrange(self.clusters)
        self.group += 1
        src = self.operand("src", self.far(), "float16", shape)
        for core in range(self.cores):
            dst = self.operand("dst", "l1", "float16", shape)
            self.builder.add(
                "load_multicast", [dst, src], cluster=cluster, core=core, group=self.group, segment=self.segment
            )

    def barrier(self) -> None:
        cluster = self.rng.randrange(self.clusters)
        self.group += 1
        names = [f"core:{k}:{e}" for k in range(self.cores) for e in ("load", "vector")]
        for core in range(self.cores):
            for engine in ("load", "vector"):
                self.builder.add(
                    "barrier", cluster=cluster, core=core, engine=engine, group=self.group, segment=self.segment,
                    attrs={"scope": "cluster", "queues": names},
                )  # fmt: skip

    def step(self) -> None:
        rng = self.rng
        if rng.random() < 0.04 and self.part.features.multicast:
            self.multicast()
            return
        if rng.random() < 0.02:
            self.barrier()
            return
        engines = ["load", "load", "store", "move", "matrix", "vector", "vector", "scalar"]
        engine = rng.choice(engines + ["prefetch"] * self.part.has_llb)
        cluster, core = rng.randrange(self.clusters), rng.randrange(self.cores)
        waits, sets = self.flags(engine, cluster, core)
        if rng.random() < 0.2 and sets and engine in ("move", "matrix", "vector", "scalar"):
            self.builder.add(
                "set", cluster=cluster, core=core, engine=engine, sets=sets, waits=waits, segment=self.segment
            )
            return
        op, operands, attrs = self.instruction(engine)
        self.builder.add(
            op, operands, cluster=cluster, core=core, attrs=attrs, waits=waits, sets=sets, segment=self.segment
        )

    def build(self, count: int) -> Program:
        for number in range(count):
            if number == count // 2:
                self.segment = 1
            self.step()
        one = Binding("a", 0, (100,), "float32")
        self.builder.host_steps.append(HostStep(1, "Sort", "s", (one,), (one,), 700, "why not", b""))
        return self.builder.build()


def random_program(seed: int, count: int = 200, target: str | Target = "npu-v1") -> Program:
    """A program of about `count` entries."""
    return RandomProgram(seed, target).build(count)
