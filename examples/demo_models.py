"""The demo's models: what tasks and actors run on the executors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from sparkray.data import Dataset

FEATURES = [
    *("rain", "warmest", "coldest", "wind", "wet", "spread", "wet_before", "wet_days"),
    *("rain_of_week", "warming", "freshening", "season_sin", "season_cos"),
]
TARGET = "wet_tomorrow"
FOLDS = (2013, 2014)  # each is predicted from the years before it


class Candidate(NamedTuple):
    kind: str
    settings: tuple[tuple[str, float], ...]

    def describe(self) -> str:
        return ", ".join(f"{name}={value:g}" for name, value in self.settings)


def candidates() -> Iterator[Candidate]:
    for weight in (0.01, 0.03, 0.1, 0.3, 1):
        yield Candidate("logistic regression", (("C", weight),))
    for neighbours in (11, 21, 31, 51, 71):
        yield Candidate("nearest neighbours", (("n_neighbors", neighbours),))
    for leaf in (4, 8, 16, 32):
        yield Candidate("random forest", (("n_estimators", 150), ("min_samples_leaf", leaf)))
    for depth in (1, 2, 3):
        for rate in (0.03, 0.1):
            yield Candidate("gradient boosting", (("max_depth", depth), ("learning_rate", rate)))


def build(candidate: Candidate) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    settings = dict(candidate.settings)
    match candidate.kind:
        case "logistic regression":
            return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, **settings))
        case "nearest neighbours":
            return make_pipeline(StandardScaler(), KNeighborsClassifier(**settings))
        case "random forest":
            return RandomForestClassifier(random_state=0, **settings)
        case kind:
            assert kind == "gradient boosting"
            return GradientBoostingClassifier(random_state=0, **settings)


def trial(candidate: Candidate, year: int, past: Dataset) -> float:
    """The candidate's AUC on a year, learnt from the years before."""
    from sklearn.metrics import roc_auc_score

    days = past.to_pandas().sort_values("day")
    before, then = days[days.year < year], days[days.year == year]
    model = build(candidate).fit(before[FEATURES], before[TARGET])
    return float(roc_auc_score(then[TARGET], chances(model, then)))


def chances(model: Any, days: pd.DataFrame) -> Any:
    return model.predict_proba(days[FEATURES])[:, 1]


class Forecaster:
    """An actor: it learns once, holds its model, and predicts block by block."""

    def __init__(self, candidate: Candidate) -> None:
        self.model = build(candidate)

    def home(self) -> tuple[str, int]:
        """Its node and process."""
        import sparkray

        return sparkray.get_runtime_context().get_node_id(), os.getpid()

    def learn(self, past: Dataset) -> None:
        days = past.to_pandas().sort_values("day")
        self.model.fit(days[FEATURES], days[TARGET])

    def predict(self, block: pa.Table) -> pa.Table:
        """The day, what was known of it, what came, and the chance of rain on the next."""
        import pyarrow as pa

        chance = chances(self.model, block.to_pandas())
        return block.select(["day", "wet", TARGET]).append_column("chance", pa.array(chance))
