"""`python -m ci.bench NAME [--json]`: measure one figure; exits with 1 if it falls short."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from ci.bench import convolution, handwritten, prediction, product, resnet18
from ci.bench.figures import Findings


@click.group()
def main() -> None:
    """Benchmarks of compiled programs. Each prints a table and the figures that are wanted."""


def command(name: str, measure: Callable[..., Findings], *options: Callable[[Any], Any]) -> None:
    """Add a benchmark to the group; `options` are click's, and become arguments of `measure`."""

    def run(as_json: bool, **chosen: Any) -> None:
        found = measure(**chosen)
        found.print(as_json)
        sys.exit(0 if found.met else 1)

    run.__doc__ = measure.__doc__
    wrapped: Any = click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")(run)
    for option in reversed(options):
        wrapped = option(wrapped)
    main.command(name)(wrapped)


command("product", product.measure)
command("convolution", convolution.measure)
command("resnet18", resnet18.measure)
command(
    "prediction", prediction.measure,
    click.option("--count", default=200, show_default=True, help="Kernels."),
    click.option("--seed", default=0, show_default=True),
    click.option("--worst", default=5, show_default=True, help="Kernels to name, worst first."),
)  # fmt: skip
command("handwritten", handwritten.measure, click.argument("names", nargs=-1))

if __name__ == "__main__":
    main()
