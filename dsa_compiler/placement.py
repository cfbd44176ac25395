"""What runs where: layers with their kernels, and the nodes that the CPU runs because no kernel carries them.

A layer that no choice fits, that no instruction carries or that a pass fails on gives its nodes to host steps, which
the front end joins into as few and as large ones as it can; the rest of the graph is then built around them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from onnx import ModelProto

from dsa_compiler.compilation import Compilation, CompiledLayer
from dsa_compiler.errors import InternalError
from dsa_compiler.graph.attention import fuse_attention
from dsa_compiler.graph.build import build_graph
from dsa_compiler.graph.join_copies import join_copies
from dsa_compiler.lower.footprint import check_footprint
from dsa_compiler.lower.lower import lacking
from dsa_compiler.lower.storage import plan_storage
from dsa_compiler.options import CompileOptions
from dsa_compiler.target import Target

Progress = Callable[[str], None]


def place_layers(
    proto: ModelProto, part: Target, options: CompileOptions, progress: Progress
) -> tuple[Compilation, list[CompiledLayer]]:
    """The work on the graph of `proto`, and its layers in order, each with a kernel or as a host step.

    Raises `UserError` for a model that cannot be accepted.
    """
    reasons: dict[str, str] = {}
    feedback: Counter[str] = Counter()
    while True:
        progress("graph")
        graph = build_graph(proto, options.precision, lacking, reasons)
        check_footprint(graph, part)
        graph = plan_storage(join_copies(fuse_attention(graph)), part)
        progress(f"kernels of {len(graph.layers)} layers")
        work = Compilation(graph, part, options, feedback)
        layers = work.compile_layers()
        left = _left_to_host(layers)
        if left.keys() <= reasons.keys():
            break
        reasons |= left
        feedback["host"] += 1
    _require_kernels(layers)
    return work, layers


def _left_to_host(layers: list[CompiledLayer]) -> dict[str, str]:
    """The nodes of layers without a stream, and why; host layers of the graph have theirs already."""
    failed = [c for c in layers if c.trace is None and c.layer.kind != "host"]
    return {node: c.host_reason for c in failed for node in c.layer.nodes}


def _require_kernels(layers: list[CompiledLayer]) -> None:
    """Raise `InternalError` for a layer that has neither a kernel nor nodes that the host could run."""
    for compiled in layers:
        if compiled.kernel is None and compiled.layer.kind != "host":
            raise InternalError(compiled.host_reason, where=compiled.layer.name)
