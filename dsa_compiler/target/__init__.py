"""The machine description: parts as data. Imports nothing above it."""

from dsa_compiler.target.description import CORE_ENGINES, ENGINES, SCOPES, Memory, Target
from dsa_compiler.target.load import list_targets, load_target, parse_target, target_from_dict

__all__ = [
    "CORE_ENGINES", "ENGINES", "SCOPES", "Memory", "Target",
    "list_targets", "load_target", "parse_target", "target_from_dict",
]  # fmt: skip
