"""What the models take on this machine's own clock, while a simulator runs them."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, thread_time
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Measured:
    """Steps of one kind of process, and their time by the clock on the wall."""

    __slots__ = ("seconds", "steps")

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0

    def step(self, do: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        began = perf_counter()
        done = do(*args, **kwargs)
        self.seconds += perf_counter() - began
        self.steps += 1
        return done

    def add(self, seconds: float) -> None:
        """Beside the steps."""
        self.seconds += seconds


class OwnShare:
    """Of the time that passes, what this thread had a processor for.

    On a busy machine that is little, and steps are interrupted as often as their time has it: this share of their time
    by the clock is CPU time. (To ask for CPU time around each step is a system call, which costs as much as a step, and
    after which the step begins with other people's caches.)
    """

    def __init__(self) -> None:
        self._began = perf_counter(), thread_time()

    def so_far(self) -> float:
        wall, own = self._began
        passed = perf_counter() - wall
        return min(1.0, (thread_time() - own) / passed) if passed else 1.0
