"""From the stress benchmark's outcomes to numbers: tables, comparisons within rounds, growth. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from micro_report import OURS, RIVAL, Cell, number
from stress_systems import FLOOR, PYTHON
from stress_work import expected

GROWTH_FROM = 10_000  # leaves; below, starting processes is most of it
GROWTH_WANTED = 1.3


class Run(NamedTuple):
    """What one child does, and the name of a line of the table."""

    part: str
    system: str
    shape: str
    size: int  # n, or leaves
    cpus: int
    rounds: int
    seconds: float  # that its passes fill
    kill_every: float = 0.0

    def __str__(self) -> str:
        killing = f", a kill every {self.kill_every:g} s" if self.kill_every else ""
        return f"{self.system} {self.shape} {self.size:,} on {self.cpus}{killing}"


Cells = Mapping[Run, Cell]


def table(part: str, cells: Cells) -> list[list[str]]:
    return {"loops": loop_table, "turns": turn_table}.get(part, task_table)(cells)


def turn_table(cells: Cells) -> list[list[str]]:
    """All compared with the better of the plain forked processes.

    *busy* is the share of the processors' time that went into the loops themselves, which is told within each pass: a
    machine that is slower for some seconds is so for both. What it lacks to 100 % is what the system costs, and waits.
    """
    header = ["loops", "n", "system", "CPUs", "turns", "seconds: min - median - max", "of the floor, by turns"]
    lines = [[*header, "busy: min - median - max", "busy, of the floor's"]]
    for run, cell in cells.items():
        for turns in (outcome.turns for outcome in cell.outcomes if outcome.turns):
            seconds = {system: [took for took, _ in passes] for system, passes in turns.items()}
            busy = {system: [loops / took / run.cpus for took, loops in passes] for system, passes in turns.items()}
            floors = [system for system in FLOOR if system in turns]
            quickest = min((seconds[system] for system in floors), key=statistics.median, default=[])
            busiest = max((statistics.median(busy[system]) for system in floors), default=None)
            for system in turns:
                its = seconds[system]
                ratios = [base / one for base, one in zip(quickest, its, strict=False)]
                share = f"{statistics.median(busy[system]) / busiest:.1%}" if busiest else ""
                spread = " - ".join(map(number, (min(its), statistics.median(its), max(its))))
                line = [run.shape, str(run.size), system, str(run.cpus), str(len(its)), spread, _percents(ratios)]
                lines.append([*line, _percents(busy[system], 1), share])
    return lines


def loop_table(cells: Cells) -> list[list[str]]:
    header = ["loops", "n", "operations", "system", "CPUs", "seconds: min - median - max", "x serial"]
    lines = [[*header, "efficiency", "of the floor", "the same, by rounds"]]
    for run, cell in cells.items():
        serial, floor = serial_of(cells, run).median, floor_of(cells, run)
        ratios = [] if floor is None or floor is cell else within_rounds(floor, cell)
        lines.append(
            [
                run.shape,
                str(run.size),
                f"{expected(run.shape, run.size).operations:,}",
                run.system,
                str(run.cpus),
                cell.text,
                f"{serial / cell.median:.2f}" if serial and cell.median else "",
                f"{serial / cell.median / run.cpus:.0%}" if serial and cell.median else "",
                f"{floor.median / cell.median:.0%}" if floor and floor.median and cell.median else "",
                _percents(ratios),
            ]
        )
    return lines


def serial_of(cells: Cells, run: Run) -> Cell:
    return _find(cells, run, PYTHON, 1)


def floor_of(cells: Cells, run: Run) -> Cell | None:
    """The better of the plain forked processes, by medians, for the same loops on as many CPUs."""
    found = [cell for system in FLOOR if (cell := _find(cells, run, system, run.cpus)).median]
    return min(found, key=lambda cell: cell.median or 0.0, default=None)


def _find(cells: Cells, like: Run, system: str, cpus: int) -> Cell:
    key = (like.part, system, like.shape, like.size, cpus)
    return next((cell for run, cell in cells.items() if run[:5] == key), Cell())


def within_rounds(floor: Cell, cell: Cell) -> list[float]:
    """Of each round: the floor's seconds by ours. What slows the machine for minutes slows both."""
    pairs = zip(floor.outcomes, cell.outcomes, strict=False)  # a run that was interrupted has fewer of one
    return [base.value / its.value for base, its in pairs if base.value and its.value]


def _percents(ratios: list[float], digits: int = 0) -> str:
    some = ratios if len(ratios) < 2 else [min(ratios), statistics.median(ratios), max(ratios)]
    return " - ".join(f"{ratio:.{digits}%}" for ratio in some)


def task_table(cells: Cells) -> list[list[str]]:
    header = ["shape", "leaves", "system", "CPUs", "seconds of a pass: min - median - max", "us per leaf", "x Ray"]
    lines = [[*header, "passes", "executions", "kills", "driver MiB"]]
    for run, cell in cells.items():
        counts = [outcome.counts for outcome in cell.outcomes if outcome.counts]
        names = ("passes", "executions", "kills", "peak_mib")
        most = [f"{max(count[what] for count in counts):,}" if counts else "" for what in names]
        each = f"{cell.median / run.size * 1e6:,.0f}" if cell.median else ""
        rival = _per_leaf(cells, run._replace(system=RIVAL))
        times = f"{rival / (cell.median / run.size):.0f}" if rival and cell.median and run.system == OURS else ""
        lines.append(
            [run.shape, f"{run.size:,}", run.system, str(run.cpus), cell.text, each, times, *most],
        )
    return lines


def _per_leaf(cells: Cells, like: Run) -> float | None:
    """Seconds, with as many leaves; with kills, of whichever size there is."""
    for run, cell in cells.items():
        same = (run.system, run.shape) == (like.system, like.shape) and (run.size == like.size or bool(like.kill_every))
        if same and cell.median:
            return cell.median / run.size
    return None


def growth(cells: Cells) -> list[str]:
    """Per shape: what a leaf costs with the most leaves, by what it costs with `GROWTH_FROM`."""
    lines = []
    for system, shape in dict.fromkeys((run.system, run.shape) for run in cells):
        own = {run.size: cell.median for run, cell in cells.items() if (run.system, run.shape) == (system, shape)}
        most = max(own)
        if most > GROWTH_FROM and (base := own.get(GROWTH_FROM)) and (last := own[most]):
            ratio = (last / most) / (base / GROWTH_FROM)
            wanted = f" (wanted: at most {GROWTH_WANTED})" if system == OURS else ""
            lines.append(
                f"{system} {shape}: time per leaf at {most:,} by that at {GROWTH_FROM:,}: {number(ratio)}{wanted}"
            )
    return lines


def notes_of(cells: Cells) -> list[str]:
    return [f"{run}: {note}" for run, cell in cells.items() for note in cell.notes]


def failures(cells: Cells) -> Iterable[Run]:
    """Runs with an error. A rival's is a finding, which the notes tell, and not this benchmark's failure."""
    return [
        run for run, cell in cells.items() if run.system != RIVAL and any(outcome.error for outcome in cell.outcomes)
    ]
