"""What a benchmark finds: rows to read, figures that are wanted, and how both are printed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """A number and the least (`at_least`) or greatest value that it should have."""

    what: str
    value: float
    wanted: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the number is as wanted; NaN is not."""
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.what}: {shown(self.value)} (wanted {sign} {shown(self.wanted)}) {'ok' if self.met else 'SHORT'}"


@dataclass
class Findings:
    """The outcome of one benchmark."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def met(self) -> bool:
        """Whether every figure is as wanted."""
        return all(figure.met for figure in self.figures)

    def plain(self) -> dict[str, Any]:
        """The findings as JSON values."""
        return {
            "title": self.title,
            "rows": [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows],
            "figures": [
                {"what": f.what, "value": _plain(f.value), "wanted": f.wanted, "at_least": f.at_least, "met": f.met}
                for f in self.figures
            ],
            "notes": self.notes,
        }

    def print(self, as_json: bool) -> None:
        """Print a table, figures and notes, or one JSON object."""
        if as_json:
            print(json.dumps(self.plain(), indent=1))
            return
        console = Console(width=160, highlight=False, markup=False)
        table = Table(*self.columns, title=self.title)
        for row in self.rows:
            table.add_row(*(shown(cell) for cell in row))
        console.print(table)
        for line in (*map(str, self.figures), *self.notes):
            console.print(line)


def _plain(value: Any) -> Any:
    """A cell as JSON has it, which knows no NaN."""
    return None if isinstance(value, float) and value != value else value


def shown(value: Any) -> str:
    """A cell as text: counts with separators, shares with four digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
