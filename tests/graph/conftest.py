"""The fixtures that the tests of the front end have too."""

from tests.graph.against_runtime import build, compare

__all__ = ["build", "compare"]
