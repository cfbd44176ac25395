"""Level 1 on the CPU: TVM compiles and runs the module, as the reference of the levels below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tvm
from tvm import relax

from dsa_compiler.errors import UserError
from dsa_compiler.frontend.host import HostFacts, facts_of, is_host, run_host_model
from dsa_compiler.frontend.importer import INPUTS, OUTPUTS
from dsa_compiler.graph.rewriter import bindings_of


def run_relax(mod: tvm.IRModule, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Compile `mod` (imported or optimised) for the CPU, run it and return its outputs by ONNX name."""
    attrs = mod["main"].attrs
    names = [str(n) for n in attrs[INPUTS]]
    missing = sorted(set(names) - set(inputs))
    if missing:
        raise UserError(f"no value for {missing}", where="inputs", action=f"give {names}")
    for b in bindings_of(mod["main"]):
        if is_host(b.value):
            name = str(b.value.args[0].global_symbol)
            tvm.register_global_func(name, _host_function(facts_of(b.value)), override=True)
    passes = [relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern(), relax.transform.FuseTIR(),
              relax.transform.DeadCodeElimination()]  # fmt: skip
    lowered = tvm.ir.transform.Sequential(passes)(mod)
    machine = relax.VirtualMachine(tvm.compile(lowered, target="llvm"), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(inputs[n])) for n in names])
    results = [result] if hasattr(result, "numpy") else list(result)
    return {str(n): r.numpy() for n, r in zip(attrs[OUTPUTS], results, strict=True)}


def _host_function(facts: HostFacts) -> Callable[..., None]:
    """Return the function that runs a host step on its operands and fills its results, which come last."""
    count = len(onnx.load_model_from_string(facts.model).graph.input)

    def run(*arrays: Any) -> None:
        operands = [a.numpy() for a in arrays[:count]]
        for target, value in zip(arrays[count:], run_host_model(facts.model, operands), strict=True):
            target.copyfrom(np.ascontiguousarray(value))

    return run
