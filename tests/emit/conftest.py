import pytest

from dsa_compiler.target import Target, load_target


@pytest.fixture(scope="session", params=["npu-v1", "npu-v2", "npu-edge"])
def part(request: pytest.FixtureRequest) -> Target:
    """Parts that differ in alignment, limits and features."""
    return load_target(request.param)


@pytest.fixture(scope="session")
def v1() -> Target:
    return load_target("npu-v1")


@pytest.fixture(scope="session")
def v2() -> Target:
    return load_target("npu-v2")
