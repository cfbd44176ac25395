"""Programs that the tests of this folder share."""

import random

import numpy as np
import pytest

from dsa_compiler.isa.dtypes import DTYPES, item_bytes
from dsa_compiler.isa.table import OPCODES
from dsa_compiler.program.builder import Flag, Operand, ProgramBuilder
from dsa_compiler.program.tables import Binding, Constant, HostStep
from dsa_compiler.target import CORE_ENGINES, load_target


def _attr(rng, spec):
    if getattr(spec, "choices", ()):
        return rng.choice(spec.choices)
    length = getattr(spec, "length", None) or 2
    return {
        "int": lambda: rng.randrange(1, 100),
        "float": lambda: rng.choice([0.0, -1.5, 0.1, 3, "inf"]),
        "bool": lambda: rng.random() < 0.5,
        "ints": lambda: [rng.randrange(1, 5) for _ in range(length)],
        "pads": lambda: [[rng.randrange(3), 1] for _ in range(2)],
        "str": lambda: "row",
        "strs": lambda: ["core:0:load", "prefetch"],
    }[spec.kind]()


def _operand(rng, spec):
    rank = rng.choice(spec.ranks)
    dtype = rng.choice(spec.dtypes or DTYPES)
    extents = tuple(rng.choice([1, 2, 8, 56, 65534]) for _ in range(rank))
    strides = tuple(rng.choice([0, 64, 16777216]) for _ in range(rank - 1))
    inner = 0 if spec.broadcast and rng.random() < 0.3 else item_bytes(dtype)
    dense = rank < 3 and dtype != "int4" and rng.random() < 0.3
    address = rng.choice([0, 4096, 5 << 32])
    return Operand(spec.role, rng.choice(spec.scopes), address, dtype, extents, None if dense else (*strides, inner))


def _flag(rng):
    kind = rng.choice(["core", "cluster", "chip"])
    number = rng.randrange(32)
    return Flag("core", number, *rng.sample(CORE_ENGINES, 2)) if kind == "core" else Flag(kind, number)


def random_program(seed, count=300, target="npu-v1"):
    """Well-formed tables without sense: every opcode may occur, with any of its operands and attributes."""
    rng = random.Random(seed)
    part = load_target(target)
    builder = ProgramBuilder(part)
    names = sorted(OPCODES)
    for number in range(count):
        definition = OPCODES[names[number % len(names)] if number < len(names) else rng.choice(names)]
        engine = rng.choice(CORE_ENGINES) if definition.cost == "control" else definition.engine
        builder.add(
            definition.name,
            [_operand(rng, s) for s in definition.operands if not s.optional or rng.random() < 0.5],
            cluster=rng.randrange(part.clusters),
            core=rng.randrange(part.cores_per_cluster),
            engine=engine,
            attrs={s.name: _attr(rng, s) for s in definition.attrs if s.required or rng.random() < 0.5},
            waits=[_flag(rng) for _ in range(rng.randrange(3))],
            sets=[_flag(rng) for _ in range(rng.randrange(3))],
            group=rng.choice([-1, -1, 7]),
            segment=rng.choice([0, 0, 1]),
            node=rng.choice(["", "Conv_1", "a b"]),
            kernel=rng.choice(["", "conv", 'k"1']),
            instance=0,
        )
    builder.inputs.append(Binding("x", 0, (8, 56), "float16"))
    builder.outputs.append(Binding("the y", 4096, (), "float32"))
    builder.constants.append(Constant(8192, np.arange(100, dtype=np.uint8)))
    builder.constants.append(Constant(16384, np.full(70, 9, np.uint8)))
    one, two = Binding("a", 64, (4,), "float32"), Binding("b", 128, (2, 2), "int8")
    builder.host_steps.append(
        HostStep(1, "NonMaxSuppression", "nms", (one,), (two,), 12, "no such kernel", b"\x08model")
    )
    return builder.build(ddr_bytes=1 << 20, macs=12345, info={"batch": 2})


@pytest.fixture
def program():
    return random_program(1)
