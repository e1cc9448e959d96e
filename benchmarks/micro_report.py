"""From outcomes to numbers: min, median and max per row, ratios, their means, and the tables. No I/O."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from micro_measure import Row
from micro_process import Outcome

NOT_THERE = "not there yet"
OURS, RIVAL = "sparkray", "ray"


@dataclass
class Cell:
    """One row on one system: an outcome per round."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return [outcome.value for outcome in self.outcomes if outcome.value is not None]

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def text(self) -> str:
        if len(self.values) == 1:
            return number(self.values[0])
        if self.values:
            low, middle, high = min(self.values), statistics.median(self.values), max(self.values)
            return f"{number(low)} - {number(middle)} - {number(high)}"
        if any(outcome.error for outcome in self.outcomes):
            return "error"
        return NOT_THERE if self.outcomes else "not run"

    @property
    def notes(self) -> list[str]:
        """Errors and refusals, each once, with how many rounds it struck."""
        said: dict[str, int] = {}
        for outcome in self.outcomes:
            kinds = ((outcome.error, ""), (outcome.absent, ""), (", ".join(outcome.leftovers), "left behind: "))
            for text, prefix in kinds:
                if text:
                    line = prefix + " ".join(text.split())[:200]
                    said[line] = said.get(line, 0) + 1
        rounds = len(self.outcomes)
        return [line if count == rounds else f"{line} (in {count} of {rounds} rounds)" for line, count in said.items()]


Table = Mapping[str, Mapping[str, Cell]]  # row name -> system -> cell


def ratio(row: Row, cells: Mapping[str, Cell]) -> float | None:
    """How many times better we are, by medians; above 1 we win, also where fewer seconds are better."""
    ours, rivals = cells.get(OURS, Cell()).median, cells.get(RIVAL, Cell()).median
    if not ours or not rivals:
        return None
    return rivals / ours if row.smaller_is_better else ours / rivals


def ranges_overlap(cells: Mapping[str, Cell]) -> bool:
    """Whether a value of the one system lies among the other's: then the ratio may be chance."""
    ours, rivals = cells[OURS].values, cells[RIVAL].values
    return min(ours) <= max(rivals) and min(rivals) <= max(ours)


def mean_ratio(rows: Iterable[Row], table: Table) -> tuple[float, int] | None:
    """The geometric mean over the rows that both systems have, and how many these are."""
    logs = [math.log(r) for row in rows if (r := ratio(row, table[row.name])) is not None]
    return (math.exp(statistics.fmean(logs)), len(logs)) if logs else None


def means(rows: Sequence[Row], table: Table) -> dict[str, tuple[float, int, int]]:
    """By the rows that it is over: the geometric mean, how many rows are in it, and how many there would be."""
    chosen = {
        "Ray's rows": [row for row in rows if not row.extra],
        "Ray's rows of like work": [row for row in rows if not row.extra and not row.unlike],
        "all rows": list(rows),
    }
    found = {title: (mean_ratio(some, table), len(some)) for title, some in chosen.items()}
    return {title: (*mean, count) for title, (mean, count) in found.items() if mean is not None}


def mean_lines(rows: Sequence[Row], table: Table) -> list[str]:
    return [
        f"geometric mean, {title}: {mean:.2f} over {there} of {count} rows"
        for title, (mean, there, count) in means(rows, table).items()
    ]


def grid(rows: Sequence[Row], systems: Sequence[str], table: Table) -> list[list[str]]:
    """Header and lines of the table, as text cells."""
    both = len(systems) > 1
    header = ["row", "unit", *(f"{system}: min - median - max" for system in systems), *(["ratio"] if both else [])]
    lines = [header]
    for row in rows:
        cells = table[row.name]
        times = ratio(row, cells)
        last = ["" if times is None else f"{times:.2f}{' ~' if ranges_overlap(cells) else ''}"] if both else []
        lines.append([row.title, row.unit, *(cells[system].text for system in systems), *last])
    return lines


def terminal(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    header, *body = ["| " + " | ".join(line) + " |" for line in lines]
    rule = "|" + "|".join("---" if column == 0 else "---:" for column in range(len(lines[0]))) + "|"
    return "\n".join([header, rule, *body])


def note_lines(rows: Sequence[Row], systems: Sequence[str], table: Table) -> list[str]:
    told = [
        f"{row.title}, {system}: {note}" for row in rows for system in systems for note in table[row.name][system].notes
    ]
    unlike = [f"{row.title}, not like work: {row.unlike}" for row in rows if row.unlike and len(systems) > 1]
    return told + unlike


def number(value: float) -> str:
    """Three digits that mean something: 12,346 and 12.3 and 0.0123."""
    if value >= 999.5:  # .3g would write it as 1e+03
        return f"{value:,.0f}"
    return f"{value:.3g}"
