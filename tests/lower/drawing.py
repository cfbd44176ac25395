"""Settings for hypothesis: the same cases in every run, no shrinking (it takes minutes; the cases are small)."""

from hypothesis import HealthCheck, Phase, settings


def drawn(examples: int) -> settings:
    """A decorator that runs a test on so many cases."""
    return settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )
