"""Graph level: passes on Relax, fusion into layers, and their plain-Python form."""

from dsa_compiler.graph.evaluate import evaluate
from dsa_compiler.graph.extract import extract_layers
from dsa_compiler.graph.layers import Layer, LayerGraph, OpCall, Tensor
from dsa_compiler.graph.pipeline import optimize
from dsa_compiler.graph.run import run_relax
from dsa_compiler.graph.views import View

__all__ = [
    "Layer", "LayerGraph", "OpCall", "Tensor", "View", "evaluate", "extract_layers", "optimize", "run_relax",
]  # fmt: skip
