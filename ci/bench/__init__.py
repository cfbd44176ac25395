"""Benchmarks: one small command for each figure that the project promises; `python -m ci.bench NAME [--json]`."""
