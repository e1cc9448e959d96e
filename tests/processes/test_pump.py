"""Who reads a process's sockets: the side thread, while nobody waits."""

from __future__ import annotations

import os
import threading
import time

import pytest

from sparkray_core.run.pump import GLANCED_POLL_S, QUIET_TURNS, Getter, Pump
from tests.waiting import wait_until

LIMIT_S = 20.0


def test_a_side_thread_that_sleeps_for_good_takes_up_looking_when_told() -> None:
    """A worker says so when a task begins: its output is looked for, even if the thread fell asleep just before."""
    turns: list[float | None] = []

    def turn(timeout: float | None) -> bool:
        turns.append(timeout)
        return False

    pump = Pump("test", turn)
    pump.start()
    try:
        wait_until(lambda: pump.asleep, "the side thread never slept")
        before = len(turns)
        pump.look_every(0.001)
        wait_until(lambda: len(turns) > before + 2 * QUIET_TURNS, "it slept on")
    finally:
        pump.close()


def test_who_reads_hears_that_another_thread_has_ended_its_wait() -> None:
    def turn(timeout: float | None) -> bool:
        for fd, _ in pump.poll(timeout):
            pump.calm(fd)
        return False

    pump = Pump("test", turn)
    pump.start()
    try:
        for end in ("entry_ready", "finish"):
            getter = Getter(1)
            timer = threading.Timer(0.2, getattr(getter, end), [None] if end == "entry_ready" else [])
            timer.start()
            begin = time.monotonic()
            pump.lead(getter, begin + LIMIT_S, interruptible=False)
            assert time.monotonic() - begin < LIMIT_S / 2
            timer.join()
    finally:
        pump.close()


def test_a_follower_that_looks_up_while_it_is_woken_disturbs_nobody() -> None:
    """What was being handled would be dropped half done: the results of a task, and whoever waits for them hangs."""
    getter = Getter(1)

    class Gate:
        """Of a follower whose wait times out between two steps of the thread that wakes it."""

        released = 0

        def locked(self) -> bool:
            getter.gate = None
            return True

        def release(self) -> None:
            self.released += 1

    gate = Gate()
    getter.gate = gate  # type: ignore[assignment]

    getter.entry_ready(None)

    assert gate.released == 1


class Counted:
    """An outer set that counts how often the side thread looks into it."""

    def __init__(self, pump: Pump) -> None:
        self.looks = 0
        self._outer = pump.outer
        pump.outer = self  # type: ignore[assignment]

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        self.looks += 1
        return self._outer.poll(timeout)

    def __getattr__(self, name: str) -> object:
        return getattr(self._outer, name)


def polling(pump: Pump, timeout: float | None) -> bool:
    """A turn of a process that has nothing but its pump."""
    found = pump.poll(timeout)
    for fd, _ in found:
        pump.calm(fd)
    return bool(found)


def test_the_alarm_of_one_who_leads_does_not_keep_the_side_thread_busy() -> None:
    """It took 0.1 ms of the driver for each task while an alarm was due."""
    pump = Pump("test", lambda timeout: polling(pump, 0.05))  # a leader that is slow to see to its alarm
    outer = Counted(pump)
    pump.start()
    try:
        wait_until(lambda: pump.asleep, "the side thread never slept")
        before = outer.looks
        pump.next_wake = 0.0
        waker = threading.Timer(0.05, pump.wake)
        waker.start()
        pump.lead(Getter(1), time.monotonic() + 0.5, interruptible=False)
        waker.join()
        assert outer.looks - before < 20
    finally:
        pump.close()


def test_the_side_thread_keeps_out_of_the_way_of_code_that_looks_itself() -> None:
    turns: list[str] = []

    def turn(timeout: float | None) -> bool:
        turns.append(threading.current_thread().name)
        return False

    pump = Pump("side", turn)
    pump.start()
    try:
        wait_until(lambda: pump.asleep, "the side thread never slept")
        turns.clear()
        until = time.monotonic() + 20 * GLANCED_POLL_S
        while time.monotonic() < until:
            pump.glance()
            time.sleep(GLANCED_POLL_S / 10)
        by_others = turns.count("side")
        wait_until(lambda: turns.count("side") > by_others, "nobody reads any more once the code does not")
        # It was woken once, and on a busy machine a glance may come too late.
        assert by_others < turns.count(threading.current_thread().name) / 4
    finally:
        pump.close()


@pytest.mark.parametrize(("missing", "lull_s", "looks_away"), [(2, 0.1, True), (1, LIMIT_S / 2, False)])
def test_a_wait_looks_away_only_if_what_may_come_meanwhile_cannot_end_it(
    missing: int, lull_s: float, looks_away: bool
) -> None:
    getter = Getter(missing)

    def turn(timeout: float | None) -> bool:
        if polling(pump, timeout):
            getter.finish()
        return True

    pump = Pump("test", turn)  # without its side thread, which could come first
    reading, writing = os.pipe()
    try:
        pump.register(reading)
        os.write(writing, b"x")
        pump.lull = lull_s, 1
        begin = time.monotonic()
        pump.lead(getter, begin + LIMIT_S, interruptible=False)
        assert (time.monotonic() - begin >= lull_s) is looks_away
    finally:
        pump.close()
        os.close(reading)
        os.close(writing)


def test_what_is_done_just_before_the_side_thread_sleeps_is_seen() -> None:
    """A reference that is let go of behind the last look, by who sees that nobody sleeps and wakes nobody."""
    let_go: list[str] = []
    handed_in = threading.Event()

    def turn(timeout: float | None) -> bool:
        pump.poll(timeout)
        if let_go:
            handed_in.set()
        elif not pump.asleep:
            let_go.append("a reference")
        return False

    pump = Pump("test", turn)
    pump.start()
    try:
        assert handed_in.wait(30)
    finally:
        pump.close()
