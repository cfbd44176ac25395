"""Lower bounds from the ONNX graph and the target alone; imports nothing of the compiler.

    bounds = analyze(model, load_target("npu-v1"), "float16")
    bounds.ideal_cycles, bounds.bound_by, bounds.macs, bounds.element_ops
    for row in bounds.rows: row.name, row.macs, row.element_ops, row.bytes

The rules are those of the manual ("Lower bound"). Where it leaves room, the smaller bound is taken: a result
must not look better for it.
"""

from dsa_compiler.bounds.analysis import Bounds, NodeWork, analyze, node_name
from dsa_compiler.bounds.traffic import Traffic

__all__ = ["Bounds", "NodeWork", "Traffic", "analyze", "node_name"]
