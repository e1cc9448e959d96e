"""A batch of calls with its large arguments in the store, where all batches of a `Parallel` share them."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from joblib.parallel import BatchedCalls

from sparkray.api import get, put
from sparkray.session import core
from sparkray_core.run.object_ref import ObjectRef


class SharedArguments:
    """The references of large arguments, each as long as the argument itself lives.

    A cross-validation passes the same table to each of its fits: it is stored once, and read in place. What is changed
    during a `Parallel` is sent as it was when it was first seen; joblib's own memory mapping does the same.
    """

    def __init__(self) -> None:
        self._refs: dict[int, tuple[weakref.ref[Any], ObjectRef[Any]]] = {}  # by id of the argument

    def lighten(self, func: Callable[[], Any]) -> Callable[[], Any]:
        """The batch with references in place of its large arguments."""
        if not isinstance(func, BatchedCalls):
            return func
        calls = [
            (function, [self._light(arg) for arg in args], {name: self._light(arg) for name, arg in kwargs.items()})
            for function, args, kwargs in func.items
        ]
        if func._reducer_callback is not None:
            func._reducer_callback()
        return LightBatch(calls, (func._backend, func._n_jobs))

    def clear(self) -> None:
        self._refs.clear()

    def _light(self, argument: Any) -> Any:
        key = id(argument)
        known = self._refs.get(key)
        if known is not None and known[0]() is argument:
            return _Stored(known[1])
        if _size(argument) < core().inline_bytes:
            return argument
        try:
            alive = weakref.ref(argument, lambda _: self._refs.pop(key, None))
        except TypeError:  # a list, say; nobody would tell when its id is another's
            return argument
        ref = put(argument)
        self._refs[key] = (alive, ref)
        return _Stored(ref)


class LightBatch:
    """Runs in an actor: joblib's own batch, once the arguments are there."""

    def __init__(self, calls: Iterable[tuple[Any, list[Any], Mapping[str, Any]]], backend_and_jobs: Any) -> None:
        self._calls = calls
        self._backend_and_jobs = backend_and_jobs

    def __call__(self) -> Any:
        calls = [
            (function, [_whole(arg) for arg in args], {name: _whole(arg) for name, arg in kwargs.items()})
            for function, args, kwargs in self._calls
        ]
        return BatchedCalls(calls, self._backend_and_jobs)()


class _Stored:
    """Tells a reference of ours from one that the user passes."""

    __slots__ = ("ref",)

    def __init__(self, ref: ObjectRef[Any]) -> None:
        self.ref = ref


def _whole(argument: Any) -> Any:
    return get(argument.ref) if isinstance(argument, _Stored) else argument


def _size(argument: Any) -> int:
    """Bytes, as far as it is easily seen."""
    size = getattr(argument, "nbytes", None)  # an array
    if not isinstance(size, int):
        size = getattr(getattr(argument, "data", None), "nbytes", None)  # a sparse matrix
    return size if isinstance(size, int) else sys.getsizeof(argument)
