"""A raylet's loop, run by a test until something holds."""

from __future__ import annotations

from collections.abc import Callable

from sparkray_core.run.loop import Loop

LIMIT_S = 20.0


def run_until(loop: Loop, holds: Callable[[], bool]) -> None:
    """Run it until that holds, or fail. It can be run again afterwards."""
    deadline = loop.clock() + LIMIT_S
    timer = loop.timer(lambda: None)

    def look() -> None:
        timer.wake_at(loop.clock() + 0.01)
        if holds() or loop.clock() > deadline:
            loop.stop()

    loop._stopped = False
    loop.run(look)
    assert holds(), f"not within {LIMIT_S:g} s"
