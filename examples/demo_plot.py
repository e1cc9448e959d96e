"""The demo's picture: how well each model tells wet days from dry ones, and what the best one said through 2015."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NAME = "rain-in-seattle.png"
INK, RAIN = "#26323c", "#2a78c2"


def draw(frames: dict[str, pd.DataFrame], winner: str, path: Path) -> None:
    """
    Args:
        frames: by kind of model; day, wet_tomorrow and chance.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.dates as dates
    import matplotlib.pyplot as plt
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), width_ratios=(1, 2.4), layout="constrained")
    for kind, frame in frames.items():
        false, true, _ = roc_curve(frame.wet_tomorrow, frame.chance)
        auc = roc_auc_score(frame.wet_tomorrow, frame.chance)
        left.plot(false, true, lw=2.2 if kind == winner else 1.1, label=f"{kind} ({auc:.2f})")
    left.plot([0, 1], [0, 1], ":", color=INK, lw=1)
    left.set(xlabel="false alarms", ylabel="wet days foreseen", title="Rain tomorrow? (area under curve, 2015)")
    left.legend(loc="lower right", fontsize=8, frameon=False)

    days = frames[winner].sort_values("day")
    right.bar(days.day, days.wet_tomorrow, width=1.0, color=RAIN, alpha=0.22, label="it rained on the next day")
    right.plot(days.day, days.chance, color=INK, lw=1, label=f"chance of rain by {winner}")
    right.axhline(0.5, color=INK, lw=0.7, ls=":")
    right.set(
        ylim=(0, 1),
        xlim=(days.day.min(), days.day.max()),
        title="Seattle, 2015: forecast each evening for the next day",
    )
    right.xaxis.set_major_formatter(dates.DateFormatter("%b"))
    right.legend(loc="upper center", fontsize=8, ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)
