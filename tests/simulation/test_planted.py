"""Faults put in on purpose: the random sessions find them, and it is known which of their questions does.

Each is a mistake that a change to the model could bring: a resource that is given out twice, a message that is believed
to have arrived, a borrower that nobody counts, a retry that is forgotten, a value that could be made again and is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from sparkray_core.model.leasing import Leasing
from sparkray_core.model.lineage import LINEAGE_EVICTED, Lineage
from sparkray_core.model.link import Link
from sparkray_core.model.node_claims import Claims
from sparkray_core.model.references import References
from sparkray_core.testing.storm import run_storm
from sparkray_core.testing.weather import CRASHES, DEADLY, LOSSY, ROUGH, Weather

MOST_SEEDS = 20  # in CI 20 are run in rough weather, and 4 in deadly


def a_lease_that_takes_nothing(patch: pytest.MonkeyPatch) -> None:
    """What a claim needs is not taken off what is available."""

    def take(self: Claims, amounts: Any) -> None:
        self.changes += 1

    patch.setattr(Claims, "_take", take)


def a_link_that_resends_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Link, "_resend", lambda self, now, effects: None)


def a_borrower_that_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    def counted(self: References, sender: Any, pairs: Iterable[Any], by: int) -> None:
        return None

    patch.setattr(References, "counted", counted)


def a_crash_that_forgets_what_was_pushed_behind(patch: pytest.MonkeyPatch) -> None:
    lose = Leasing.lose

    def lose_all(self: Leasing, lease: Any, *rest: Any) -> None:
        queue = lease.queue
        before = len(queue.tasks)
        lose(self, lease, *rest)
        if len(queue.tasks) > before + 1:
            del queue.tasks[1]

    patch.setattr(Leasing, "lose", lose_all)


def a_lost_value_that_is_not_made_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lineage, "why_not", lambda self, record: LINEAGE_EVICTED)


def run_storms(weather: Weather) -> None:
    for seed in range(MOST_SEEDS):
        run_storm(seed, weather)


@pytest.mark.parametrize(
    ("plant", "weather", "found_by"),
    [
        (a_lease_that_takes_nothing, ROUGH, "are not all"),
        (a_link_that_resends_nothing, LOSSY, "this never ended"),
        (a_borrower_that_is_not_counted, ROUGH, "keeps entries"),
        (a_crash_that_forgets_what_was_pushed_behind, CRASHES, "is in 0 places"),
        (a_lost_value_that_is_not_made_again, DEADLY, "value"),
    ],
    ids=lambda it: it.__name__ if callable(it) else "",
)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], weather: Weather, found_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)

    with pytest.raises(AssertionError, match=found_by):
        run_storms(weather)
