"""Front end: ONNX files to Relax modules."""

from dsa_compiler.frontend.importer import import_model
from dsa_compiler.frontend.load import load_model

__all__ = ["import_model", "load_model"]
