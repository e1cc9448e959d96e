from __future__ import annotations

import pytest

from sparkray_core.testing import measured
from sparkray_core.testing.measured import Measured, OwnShare


class Clocks:
    """Both stand still, but for what a test says."""

    def __init__(self) -> None:
        self.wall = self.own = 100.0


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(measured, "perf_counter", lambda: clocks.wall)
    monkeypatch.setattr(measured, "thread_time", lambda: clocks.own)
    return clocks


def test_steps_are_counted_and_their_seconds_added_up(clocks: Clocks) -> None:
    def step(seconds: float, result: str) -> str:
        clocks.wall += seconds
        return result

    one = Measured()
    results = [one.step(step, 0.25, "first"), one.step(step, 0.5, result="second")]
    clocks.wall += 1.0
    one.add(0.125)

    assert (results, one.steps, one.seconds) == (["first", "second"], 2, 0.875)


def test_a_thread_s_share_is_what_it_had_a_processor_for(clocks: Clocks) -> None:
    share = OwnShare()
    assert share.so_far() == 1.0

    clocks.wall, clocks.own = 108.0, 102.0
    assert share.so_far() == 0.25

    clocks.own = 109.0  # two clocks differ a little
    assert share.so_far() == 1.0
