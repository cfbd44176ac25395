"""The ISA page: the instruction table as Markdown. `python -m dsa_compiler.isa.page` prints it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from dsa_compiler.isa.definition import WRITTEN_ROLES, AttrSpec, OpDef, OperandSpec
from dsa_compiler.isa.table import TABLE
from dsa_compiler.target import ENGINES

_RANKS = (1, 2, 3)


def isa_page() -> str:
    """The whole page, from the table alone."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Instructions"
    yield ""
    yield f"{len(TABLE)} opcodes. Generated from the table by `python -m dsa_compiler.isa.page`; do not edit."
    yield ""
    yield "An operand is written as role:scopes, then its dtypes and ranks where not all are allowed. `*` marks what is"
    yield "written, `0` a source whose innermost stride may be 0, `~` one whose base or strides need no alignment to"
    yield "the scope. A `?` marks an attribute that may be absent."
    for engine in (*ENGINES, "control"):
        yield ""
        yield f"## {engine}"
        yield ""
        yield "| opcode | code | operands | attributes | cost | needs | meaning |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        yield from (_row(d) for d in TABLE if d.engine == engine)


def _row(definition: OpDef) -> str:
    cells = (
        f"`{definition.name}`",
        f"{definition.code:#05x}",
        "<br>".join(_operand(o) for o in definition.operands),
        ", ".join(_attr(a) for a in definition.attrs),
        definition.cost,
        definition.feature,
        definition.doc,
    )
    return f"| {' | '.join(cells)} |"


def _operand(operand: OperandSpec) -> str:
    marks = "*" if operand.role in WRITTEN_ROLES else ""
    marks += "0" if operand.broadcast else ""
    marks += "" if operand.aligned_base and operand.aligned_strides else "~"
    text = f"{operand.role}{marks}:{'/'.join(operand.scopes)}"
    if operand.dtypes:
        text += f" {'/'.join(operand.dtypes)}"
    return text if operand.ranks == _RANKS else f"{text} rank {'/'.join(map(str, operand.ranks))}"


def _attr(attr: AttrSpec) -> str:
    kind = "/".join(attr.choices) if attr.choices else attr.kind + (f"[{attr.length}]" if attr.length else "")
    return f"{attr.name}{'' if attr.required else '?'}: {kind}"


@click.command()
def main() -> None:
    """Print the ISA page."""
    click.echo(isa_page(), nl=False)


if __name__ == "__main__":
    main()
