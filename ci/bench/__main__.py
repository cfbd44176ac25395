"""`python -m ci.bench NAME [--json]`: measure one figure; exits with 1 if it falls short."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from ci.bench import (
    ablation,
    compile_time,
    convolution,
    graphturbo,
    handwritten,
    nodes,
    opcodes,
    prediction,
    product,
    race,
    resnet18,
)
from ci.bench.cases import PART_ONE
from ci.bench.figures import Findings
from dsa_compiler.options import EMISSION_PASSES, GRAPH_SCHEDULES
from dsa_compiler.zoo import SETS


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
command(
    "ablation", ablation.measure,
    click.option("--all", "every", is_flag=True, help="All models of part 1."),
    click.option("--model", "chosen", multiple=True, type=click.Choice(PART_ONE), help="Only this model; repeat."),
    click.option("--pass", "passes", multiple=True, type=click.Choice(EMISSION_PASSES), help="Only this pass; repeat."),
    click.option("--part", default="npu-v1", show_default=True),
)  # fmt: skip
command(
    "graphturbo", graphturbo.measure,
    click.option("--set", "chosen", type=click.Choice(sorted(SETS)), default="graphturbo", show_default=True),
    click.option("--network", "networks", multiple=True, help="Only this network; repeat."),
    click.option("--schedule", "schedules", multiple=True, type=click.Choice(GRAPH_SCHEDULES), default=("none", "llb"),
                 show_default=True, help="Repeat for several."),
    click.option("--part", help="Another part, or a TOML file."),
    click.option("--batch", type=click.IntRange(1), help="Another batch, of all networks."),
    click.option("--record", "recorded", is_flag=True, help="Write the results to models/results/sets."),
)  # fmt: skip
command(
    "opcodes", opcodes.measure,
    click.option("--model", "chosen", multiple=True, help="Only this model; repeat."),
    click.option("--all", "every", is_flag=True, help="The large generated networks too."),
    click.option("--case", "cases", multiple=True, default=("npu-v1:float16",), help="part:precision; repeat."),
)  # fmt: skip
command(
    "compile_time", compile_time.measure,
    click.option("--network", default="resnet50", show_default=True, help="A generator of `models`."),
)  # fmt: skip
command(
    "nodes", nodes.measure,
    click.option("--name", "chosen", multiple=True, help="Only tests whose name holds this; repeat."),
    click.option("--every", is_flag=True, help="Name each test that is not right."),
)  # fmt: skip
command(
    "race", race.measure,
    click.option("--seeds", default=20, show_default=True, help="Runs in race mode of each model."),
    click.option("--trials", default=100, show_default=True, help="Flags to remove, one at a time."),
    click.option("--part", default="npu-v1", show_default=True),
)  # fmt: skip

if __name__ == "__main__":
    main()
