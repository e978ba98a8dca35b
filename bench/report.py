"""What a benchmark found: tables for people, the same rows as JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """A table. Every row has the same keys, which are the names of its columns."""

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Report:
    """`skipped` says why there is nothing to show."""

    name: str
    sections: Sequence[Section] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    skipped: str | None = None

    def to_json(self) -> dict[str, Any]:
        sections = [{"title": section.title, "rows": [dict(row) for row in section.rows]} for section in self.sections]
        return {"name": self.name, "sections": sections, "notes": list(self.notes), "skipped": self.skipped}

    def show(self, console: Console) -> None:
        console.rule(self.name)
        if self.skipped:
            console.print(f"SKIPPED: {self.skipped}", markup=False)
        for section in self.sections:
            console.print(_table(section))
        for note in self.notes:
            console.print(f"• {note}", markup=False)


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", pad_edge=False)
    names = list(section.rows[0]) if section.rows else []
    for name in names:
        numeric = all(isinstance(row[name], int | float | None) for row in section.rows)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left")
    for row in section.rows:
        table.add_row(*(_cell(row[name]) for name in names))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50_ms": round(quantile(seconds, 0.5) * 1000, 2), "p95_ms": round(quantile(seconds, 0.95) * 1000, 2)}


def middle_run(runs: Sequence[Row], key: str) -> Row:
    """The run whose `key` is the median: a real run, not a mixture of several."""
    return sorted(runs, key=lambda row: float(row[key]))[len(runs) // 2]


def yardstick() -> float:
    """Seconds that 100,000 additions take: how fast the core is now. Shared ones change their speed within minutes."""
    began, total = time.perf_counter(), 0
    for number in range(100_000):
        total += number
    return time.perf_counter() - began


def progress(text: str) -> None:
    """A line on standard error, so that standard output stays what the caller asked for."""
    print(f"  {text}", file=sys.stderr, flush=True)
