"""What the models take while a simulator runs them: on this machine's own clock, or in lines of their code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter, thread_time
from types import FrameType
from typing import Any, ParamSpec, TypeVar

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


class Counted(Measured):
    """The lines of Python that some of the steps run, which no other process and no cache has a part in.

    What is done within one line is not seen: a list that is copied, a sum over all of something.
    """

    __slots__ = ("_counted", "_lines", "every")

    def __init__(self, every: int = 1) -> None:
        """
        Args:
            every: of so many steps one is looked at.
        """
        super().__init__()
        self.every = every
        self._lines = self._counted = 0

    @property
    def lines(self) -> float:
        """Of all steps, as those that were looked at tell."""
        return self._lines * self.steps / self._counted if self._counted else 0.0

    def step(self, do: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        self.steps += 1
        if self.steps % self.every:
            return do(*args, **kwargs)
        self._counted += 1
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return do(*args, **kwargs)
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if event == "line":
            self._lines += 1
        return self._trace


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
