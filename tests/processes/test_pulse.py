"""Who has not beaten for so many looks hangs; looks that could not be made say nothing."""

from __future__ import annotations

import os

from sparkray_core.run.loop import Loop
from sparkray_core.run.pulse import BEAT_S, LOOK_S, Pulse, Watchdog

PID, OTHER = 7, 8


def look(watchdog: Watchdog, first: int, count: int) -> list[int]:
    """So many, one each `LOOK_S`, from the `first`-th on."""
    return [pid for number in range(first, first + count) for pid in watchdog.look(number * LOOK_S)]


def test_who_beats_lives_and_who_stops_hangs_after_so_many_looks_and_is_told_once() -> None:
    watchdog, pulse, other = Watchdog(), Pulse(), Pulse()
    watchdog.watch(PID, pulse, 4 * LOOK_S)
    watchdog.watch(OTHER, other, 4 * LOOK_S)
    pulse.beat()
    for number in range(10):
        other.beat()
        assert look(watchdog, number, 1) == ([PID] if number == 4 else [])


def test_before_its_first_beat_and_after_its_end_nobody_hangs() -> None:
    watchdog, slow, ended = Watchdog(), Pulse(), Pulse()
    watchdog.watch(PID, slow, LOOK_S)
    watchdog.watch(OTHER, ended, 2 * LOOK_S)
    ended.beat()
    assert look(watchdog, 0, 2) == []
    watchdog.forget(OTHER)

    assert look(watchdog, 2, 100) == []


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """The machine slept."""
    watchdog, pulse = Watchdog(), Pulse()
    watchdog.watch(PID, pulse, 4 * LOOK_S)
    pulse.beat()

    assert look(watchdog, 0, 2) == []
    assert look(watchdog, 1000, 1) == []
    pulse.beat()
    assert look(watchdog, 1001, 4) == []


def test_looks_in_quick_succession_count_as_one() -> None:
    watchdog, pulse = Watchdog(), Pulse()
    watchdog.watch(PID, pulse, 2 * LOOK_S)
    pulse.beat()

    assert [watchdog.look(LOOK_S * number / 100) for number in range(200)] == [[]] * 200


def test_beats_of_a_forked_child_are_seen() -> None:
    pulse = Pulse()
    child = os.fork()
    if not child:
        pulse.beat()
        pulse.beat()
        os._exit(0)
    os.waitpid(child, 0)

    assert pulse.beats == 2


def test_a_loop_beats_though_nothing_happens() -> None:
    pulse = Pulse()
    loop = Loop(pulse=pulse)
    loop.timer(loop.stop).wake_at(loop.clock() + 2.5 * BEAT_S)
    loop.run(after=lambda: None)
    loop.close()

    assert pulse.beats >= 3
