"""The picture of a result of the stress benchmark: efficiency here, and what is foretold for more CPUs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from micro_report import OURS, RIVAL
from stress_systems import FLOOR, ON_SPARK, PYTHON
from stress_work import CUBE

PICTURE = Path(__file__).resolve().parents[1] / "docs/images/scaling.png"
PUBLISHED = ((4, 0.75), (84, 0.21))  # of Ray, for these loops: x 3 on 4 cores, x 18 on 3 nodes of 28
FORKS = "plain forks"
INK, PALE = "#26323c", "#9aa5ae"
COLOURS = {FORKS: INK, OURS: "#c8442b", ON_SPARK: "#e39a3b", RIVAL: "#2a78c2"}
OTHERS = ("#7a9e4e", "#8d6cab", "#4ea39a", "#a8786a")
SHADES = ("#e8a698", "#d8705c", COLOURS[OURS])

Points = dict[int, float]  # by number of CPUs


def draw(facts: Mapping[str, Any], path: Path | IO[bytes]) -> None:
    """Draw what was measured in turn, or else the cube of the largest n over the CPUs; and all that is foretold.

    Args:
        facts: as in a result file.
        path: of the PNG, or a file that is open for it.

    Raises:
        ImportError: matplotlib is not installed; it comes with the extra `demo`.
        ValueError: there are no loops of a cube in the result.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    turns = _busy(facts)
    if turns:
        figure = Figure(figsize=(13, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        here, foretold = figure.subplots(1, 2, width_ratios=(1, 1))
        _bars(here, turns)
        _foretold(foretold, facts.get("predicted", []), _ours(turns))
        foretold.set_xlabel("CPUs")
        _finish(figure, path)
        return
    n, serial, seconds = _measured(facts)
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    here, efficiency, foretold = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    colours = {**dict(zip([name for name in seconds if name not in COLOURS], OTHERS, strict=False)), **COLOURS}
    most = max(max(points) for points in seconds.values())
    _lines(here, seconds, colours, most)
    here.plot([1, most], [serial, serial / most], ":", color=PALE, lw=1.2, label="serial / CPUs")
    here.set(ylabel="seconds", title=f"{n:,}³ operations here, in seconds", ylim=(0, None))
    here.legend(fontsize=7.5, frameon=False)
    shares = {name: {cpus: serial / its / cpus for cpus, its in points.items()} for name, points in seconds.items()}
    _lines(efficiency, shares, colours, most)
    efficiency.set(ylabel="efficiency: serial seconds / (CPUs x seconds)", title="the same, as efficiency")
    _percents(efficiency)
    _foretold(foretold, facts.get("predicted", []), shares.get(OURS, {}))
    for axes in (here, efficiency, foretold):
        axes.set_xlabel("CPUs")
    _finish(figure, path)


def _finish(figure: Any, path: Path | IO[bytes]) -> None:
    for axes in figure.axes:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=110, format="png")


Busy = dict[tuple[str, int, int], dict[str, float]]  # (shape, n, CPUs) -> system -> share of the processors' time


def _busy(facts: Mapping[str, Any]) -> Busy:
    """Medians; of the forks, the better way. What is in the turns with Ray, too, is shown as without it."""
    found: Busy = {}
    for line in facts.get("turns", {}).get("values", ()):
        for turns in (outcome["turns"] for outcome in line["outcomes"] if outcome.get("turns")):
            shares: dict[str, float] = {}
            for system, passes in turns.items():
                share = statistics.median(loops / took / line["cpus"] for took, loops in passes)
                name = FORKS if system in FLOOR else system
                shares[name] = max(shares.get(name, 0.0), share)
            key = line["shape"], line["size"], line["cpus"]
            found[key] = {**shares, **found.get(key, {})}
    return found


def _ours(busy: Busy) -> Points:
    """Of the largest cube on each number of CPUs."""
    cubes = sorted((n, cpus) for shape, n, cpus in busy if shape == CUBE)
    return {cpus: busy[CUBE, n, cpus][OURS] for n, cpus in cubes if OURS in busy[CUBE, n, cpus]}


def _bars(axes: Any, busy: Busy) -> None:
    systems = list(dict.fromkeys(system for shares in busy.values() for system in shares))
    colours = {**dict(zip([name for name in systems if name not in COLOURS], OTHERS, strict=False)), **COLOURS}
    width = 0.8 / len(systems)
    for number, system in enumerate(systems):
        at = [place + (number - (len(systems) - 1) / 2) * width for place in range(len(busy))]
        heights = [shares.get(system, 0.0) for shares in busy.values()]
        axes.bar(at, heights, width * 0.9, color=colours[system], label=system.replace("_", " "))
    cpus = max(cpus for _, _, cpus in busy)
    axes.set_xticks(range(len(busy)), [f"{shape}, n = {n}" for shape, n, _ in busy])
    axes.set(title=f"efficiency on {cpus} CPUs: share of their time in the loops' own code")
    _percents(axes)
    least = min(share for shares in busy.values() for share in shares.values())
    axes.set_ylim(min(0.75, math.floor(20 * least) / 20 - 0.05), 1.01)
    axes.legend(fontsize=7.5, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.07))


def _measured(facts: Mapping[str, Any]) -> tuple[int, float, dict[str, Points]]:
    """n, the serial seconds, and the seconds of each system; of the forks, the better way."""
    lines = [line for line in facts.get("loops", {}).get("values", ()) if line["shape"] == CUBE and line["median"]]
    serials = {line["size"]: line["median"] for line in lines if line["system"] == PYTHON}
    if not serials:
        raise ValueError("there are no loops over a cube in this result, with serial ones beside them: nothing to draw")
    n = max(serials)
    seconds: dict[str, Points] = {}
    for line in lines:
        if line["size"] == n and line["system"] != PYTHON:
            points = seconds.setdefault(FORKS if line["system"] in FLOOR else line["system"], {})
            points[line["cpus"]] = min(points.get(line["cpus"], line["median"]), line["median"])
    if not seconds:
        raise ValueError("nothing but serial loops is in this result: nothing to draw")
    return n, serials[n], seconds


def _lines(axes: Any, found: Mapping[str, Points], colours: Mapping[str, str], most: int) -> None:
    """A line for what was measured on several numbers of CPUs; what was not has a dot, beside the others'."""
    single = [name for name, points in found.items() if len(points) == 1]
    for name, points in found.items():
        shift = 0.0 if name not in single else (single.index(name) + 1) * 0.035 * most
        axes.plot(
            [cpus + shift for cpus in sorted(points)],
            [points[cpus] for cpus in sorted(points)],
            "o-",
            color=colours.get(name, PALE),
            label=name.replace("_", " "),
            lw=1.6,
            ms=5,
        )
    axes.set_xticks(sorted({cpus for points in found.values() for cpus in points}))


def _percents(axes: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(0, 1.1)
    axes.axhline(1.0, ls=":", color=PALE, lw=1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _foretold(axes: Any, predicted: list[Mapping[str, Any]], measured: Points) -> None:
    sizes = sorted({line["size"] for line in predicted})
    for size, shade in zip(sizes, SHADES[-len(sizes) :] if sizes else (), strict=False):
        points = {line["cpus"]: line["efficiency"] for line in predicted if line["size"] == size}
        axes.plot(sorted(points), [points[cpus] for cpus in sorted(points)], "o-", color=shade, lw=1.6, ms=4)
        above = 10 - 7 * sizes.index(size)  # so that names do not lie on each other
        axes.annotate(f"n = {size}", (max(points), points[max(points)]), xytext=(6, above), textcoords="offset points",
                      fontsize=8, color=shade, va="center")  # fmt: skip
    if sizes:
        axes.plot([], [], "o-", color=SHADES[-1], label="sparkray, as its simulator foretells")
    if measured:
        axes.plot(list(measured), list(measured.values()), "D", color=INK, ms=5, label="sparkray, measured here")
    axes.plot(*zip(*PUBLISHED, strict=True), "s--", color=COLOURS[RIVAL], ms=5, lw=1, label="Ray, as published")
    axes.set_xscale("log", base=2)
    ticks = [1, 2, 4, 8, 14, 28, 56, 84]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(title="efficiency on up to 3 nodes of 28 CPUs", xlim=(0.9, 130))
    _percents(axes)
    axes.legend(fontsize=7.5, frameon=False, loc="lower left")
