"""The part that some programs are written for: one cluster of npu-v1, as a user's TOML would describe it."""

from __future__ import annotations

from typing import Any

from dsa_compiler.target import load_target


def one_cluster() -> dict[str, Any]:
    """npu-v1 with a single cluster."""
    return {**load_target("npu-v1").source, "name": "npu-v1-one-cluster", "clusters": 1}
