"""A Gantt chart of a timeline, as a PNG: one row for each process, one bar for each task that ran in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

_WAITS = ("get", "put")  # spans of a process that wait within a task; tasks are of "task", "actor" and "actor_creation"
_ROW_INCHES, _MOST_INCHES = 0.32, 40.0
_MOST_NAMES = 12  # in the legend; the rest share a colour


def draw_gantt(events: Iterable[dict[str, Any]], path: str | IO[bytes], title: str = "") -> int:
    """Draw what `timeline()` returned.

    Args:
        path: of the PNG; or a file that is open for it, in memory for instance.

    Returns:
        How many bars there are.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: nothing ran.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError("a Gantt chart needs matplotlib: pip install matplotlib") from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows, spans = _rows_and_spans(events)
    if not spans:
        raise ValueError("nothing ran in the time that the timeline covers: there is no chart to draw")
    began = min(span["ts"] for span in spans)
    ended = max(span["ts"] + span["dur"] for span in spans)
    total: dict[str, float] = {}
    for span in spans:
        total[span["name"]] = total.get(span["name"], 0.0) + span["dur"]
    names = sorted(total, key=lambda name: -total[name])
    pairs = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    palette = [*pairs[::2], *pairs[1::2]]  # the pale ones last
    colours = {name: palette[min(number, _MOST_NAMES) % len(palette)] for number, name in enumerate(names)}
    figure = Figure(figsize=(11, min(1.6 + _ROW_INCHES * len(rows), _MOST_INCHES)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (row, _) in enumerate(rows):
        bars = [span for span in spans if (span["pid"], span["tid"]) == row]
        axes.broken_barh(
            [((bar["ts"] - began) / 1e6, max(bar["dur"], (ended - began) / 2000) / 1e6) for bar in bars],
            (number - 0.4, 0.8),
            facecolors=[colours[bar["name"]] for bar in bars],
            edgecolor="white",
            linewidth=0.4,
        )
    axes.set_yticks(range(len(rows)), [label for _, label in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, (ended - began) / 1e6)
    axes.set_xlabel("seconds")
    axes.set_title(title)
    shown = names[:_MOST_NAMES]
    patches = [Patch(color=colours[name], label=name) for name in shown]
    if len(names) > len(shown):
        patches.append(Patch(color=colours[names[-1]], label=f"{len(names) - len(shown)} others"))
    axes.legend(handles=patches, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=110, format="png")
    return len(spans)


def _rows_and_spans(
    events: Iterable[dict[str, Any]],
) -> tuple[list[tuple[tuple[int, int], str]], list[dict[str, Any]]]:
    """Rows in which something ran, by node and process, each with its label; and what ran."""
    labels: dict[tuple[int, int], str] = {}
    nodes: dict[int, str] = {}
    spans = []
    for event in events:
        if event["ph"] == "M" and event["name"] == "thread_name":
            labels[event["pid"], event["tid"]] = event["args"]["name"]
        elif event["ph"] == "M" and event["name"] == "process_name":
            nodes[event["pid"]] = event["args"]["name"]
        elif event["ph"] == "X" and event["cat"] not in _WAITS:
            spans.append(event)
    used = sorted({(span["pid"], span["tid"]) for span in spans})
    several = len({node for node, _ in used}) > 1
    rows = []
    for row in used:
        label = labels.get(row, str(row[1]))
        rows.append((row, f"{nodes.get(row[0], row[0])}: {label}" if several else label))
    return rows, spans
