"""`retry_exceptions`: the function is called again in the same worker when it raised what may be retried."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any


class Retrying:
    """A function that is called again up to `retries` times (-1: without end) when it raises one of `retried`."""

    def __init__(self, function: Callable[..., Any], retries: int, retried: tuple[type[BaseException], ...]) -> None:
        self.function = function
        self.retries = retries
        self.retried = retried

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        left = self.retries
        while left != 0:
            left -= 1
            with contextlib.suppress(*self.retried):
                return self.function(*args, **kwargs)
        return self.function(*args, **kwargs)


class RetryingGenerator(Retrying):
    """`Retrying`, of a generator function: called again, it goes on behind what it had yielded before."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        left, yielded = self.retries, 0
        while True:
            with contextlib.suppress(*(self.retried if left != 0 else ())):
                for item in itertools.islice(self.function(*args, **kwargs), yielded, None):
                    yielded += 1
                    yield item
                return
            left -= 1
