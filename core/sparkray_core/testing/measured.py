"""What the models take on this machine's own clock, while a simulator runs them."""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time
from typing import ParamSpec, TypeVar

_ALL = 5_000  # so many steps are timed one by one ...
_EACH = 17  # ... and then each seventeenth, which stands for all of these: to ask for the time takes as long as a step
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _clock_s() -> float:
    """What is measured of nothing."""
    spans = []
    for _ in range(200):
        began = thread_time()
        spans.append(thread_time() - began)
    return sorted(spans)[len(spans) // 2]


class Measured:
    """Steps of one kind of process, and their CPU time: what others do meanwhile on a busy machine is not in it."""

    __slots__ = ("_nothing_s", "seconds", "steps")

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self._nothing_s = _clock_s()

    def step(self, do: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        self.steps += 1
        weight = 1
        if self.steps > _ALL:
            if self.steps % _EACH:
                return do(*args, **kwargs)
            weight = _EACH
        began = thread_time()
        done = do(*args, **kwargs)
        self.seconds += max(0.0, thread_time() - began - self._nothing_s) * weight
        return done

    def add(self, seconds: float) -> None:
        """Beside the steps."""
        self.seconds += seconds
