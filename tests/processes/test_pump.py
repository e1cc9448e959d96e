"""Who reads a process's sockets: the side thread, while nobody waits."""

from __future__ import annotations

import threading
import time

from sparkray_core.run.pump import QUIET_TURNS, Getter, Pump
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
