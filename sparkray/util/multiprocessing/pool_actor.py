"""What runs in the actors of a pool."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from sparkray.actor_class import method
from sparkray.api import remote
from sparkray_core.errors import RayError
from sparkray_core.wire import values

# How a chunk's items are passed to the function.
ONE = 0  # each is its one argument
STAR = 1  # each is its positional arguments
CALL = 2  # each is (args, kwargs)


class PoolTaskError(Exception):
    """In place of a result: the function raised. `underlying` is what, `traceback_str` is where."""

    def __init__(self, underlying: BaseException, traceback_str: str = "") -> None:
        super().__init__(underlying, traceback_str)
        self.underlying = underlying
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        return f"{type(self.underlying).__name__}: {self.underlying}\n{self.traceback_str}".rstrip()

    def to_raise(self) -> BaseException:
        """The function's own exception; the remote traceback shows as its cause."""
        error = self.underlying
        if self.traceback_str:
            error.__cause__ = RemoteTraceback(self.traceback_str)
        return error


class RemoteTraceback(Exception):
    """Only ever the cause of another: its text is the traceback in the actor."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}\n"""'


class PoolActor:
    """One process of a pool."""

    def __init__(self, initializer: Callable[..., Any] | None = None, initargs: Iterable[Any] | None = None) -> None:
        if initializer is not None:
            initializer(*(initargs or ()))

    def ping(self) -> None:
        """Returns once the initializer has run."""

    @method(num_returns=2)
    def run_batch(self, function: Callable[..., Any], how: int, items: list[Any]) -> tuple[Any, list[Any]]:
        """Run the function on each item.

        Returns:
            (seconds that it took, whether any raised), and the results. The first half is small: it comes with the
            answer, and whoever only keeps the books need not read the second.
        """
        began = time.perf_counter()
        results: list[Any] = []
        failed = False
        for item in items:
            try:
                if how == ONE:
                    result = function(item)
                elif how == STAR:
                    result = function(*item)
                else:
                    args, kwargs = item
                    result = function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the user's function: what it raises is its result
                result = _told(error)
                failed = True
            results.append(result)
        return (time.perf_counter() - began, failed), results


def _told(error: Exception) -> PoolTaskError:
    """The error as a value that can be sent."""
    trace = error.__traceback__.tb_next if error.__traceback__ is not None else None  # the user's frames only
    text = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    told = PoolTaskError(error, text)
    try:
        values.from_inline(values.to_inline(values.serialize(told)))
    except Exception as unpicklable:  # noqa: BLE001 - the user's exception class decides what its pickling raises
        substitute = RayError(
            f"Exception {type(error).__name__} isn't serializable ({unpicklable}). Original exception:\n{text}"
        )
        return PoolTaskError(substitute)
    return told


RemotePoolActor = remote(num_cpus=0)(PoolActor)
