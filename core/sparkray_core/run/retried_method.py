"""`retry_exceptions` of an actor's method: it is called again at once, in the same life and before the calls behind it.

Each retry is told to the caller, who counts it against the same limit as those after deaths.
"""

from __future__ import annotations

import inspect
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle

from sparkray_core.model.methods import ANY_EXCEPTION, Method

_loaded: dict[bytes, tuple[type[Exception], ...]] = {ANY_EXCEPTION: (Exception,)}


def retried(method: Method, function: Callable[..., Any], note: Callable[[], None]) -> Callable[..., Any]:
    """The function, called again up to `method.retries` times (-1: without end) when it raises one of its exceptions.

    Args:
        note: called before each retry.

    Raises:
        ValueError: the exceptions cannot be unpickled here.
    """
    classes = _loaded.get(method.retried)
    if classes is None:
        try:
            classes = _loaded[method.retried] = cloudpickle.loads(method.retried)
        except (ImportError, AttributeError, pickle.UnpicklingError) as error:
            raise ValueError(f"retry_exceptions of {method.name} cannot be read: {error!r}") from error
    assert classes is not None
    again = classes

    def call(*args: Any, **kwargs: Any) -> Any:
        left = method.retries
        while left:
            try:
                return function(*args, **kwargs)
            except again:  # noqa: PERF203 - that is what the loop is for
                left -= 1
                note()
        return function(*args, **kwargs)

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        left = method.retries
        while left:
            try:
                return await function(*args, **kwargs)
            except again:  # noqa: PERF203 - that is what the loop is for
                left -= 1
                note()
        return await function(*args, **kwargs)

    def call_generator(*args: Any, **kwargs: Any) -> Any:
        """It goes on behind what it had yielded."""
        left, yielded = method.retries, 0
        while True:
            try:
                for item in itertools.islice(function(*args, **kwargs), yielded, None):
                    yielded += 1
                    yield item
                return
            except again:
                if not left:
                    raise
            left -= 1
            note()

    async def call_async_generator(*args: Any, **kwargs: Any) -> Any:
        left, yielded = method.retries, 0
        while True:
            index = 0
            try:
                async for item in function(*args, **kwargs):
                    index += 1
                    if index > yielded:
                        yielded += 1
                        yield item
                return
            except again:
                if not left:
                    raise
            left -= 1
            note()

    if inspect.isgeneratorfunction(function):
        return call_generator
    if inspect.isasyncgenfunction(function):
        return call_async_generator
    return call_async if inspect.iscoroutinefunction(function) else call
