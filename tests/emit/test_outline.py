import numpy as np
import tvm
from tvm.script import tirx as T

from dsa_compiler.emit.outline import outline
from dsa_compiler.emit.pipeline import emit_kernel


@T.prim_func(s_tir=True)
def kernel(x: T.Buffer((4, 64), "float32"), y: T.Buffer((64,), "float32", scope="global.l1")):
    for t in T.serial(4, annotations={"dsac.tile": 1}):
        for i in range(64):
            y[i] = y[i] + T.hypot(x[t, i], T.float32(2))


def test_a_leftover_is_a_function_of_its_buffers_and_tiles(v1):
    (leftover,) = emit_kernel(kernel, v1).leftovers
    found = outline(leftover, "cpu_0")
    assert found.reason == "no operation is a call of tirx.hypot"
    assert [b.name for b in found.buffers] == ["y", "x"] and [s.name for s in found.scalars] == ["t"]
    lib = tvm.compile(tvm.IRModule({"cpu_0": found.func}), target="llvm")
    x = np.random.default_rng(0).standard_normal((4, 64)).astype("float32")
    y = np.ones(64, "float32")
    out = tvm.runtime.tensor(y)
    lib["cpu_0"](out, tvm.runtime.tensor(x), 2)
    np.testing.assert_allclose(out.numpy(), 1 + np.hypot(x[2], 2), rtol=1e-6)
