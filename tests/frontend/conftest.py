"""The fixtures that the tests of the graph have too."""

from tests.graph.against_runtime import build, compare

__all__ = ["build", "compare"]
