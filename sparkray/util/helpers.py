"""Values as they come: `as_completed` and `map_unordered`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar, overload

from sparkray.api import get
from sparkray.remote_function import RemoteFunction
from sparkray.session import core
from sparkray_core.ids import HEAD
from sparkray_core.run.completions import Completions
from sparkray_core.run.object_ref import ObjectRef

T = TypeVar("T")

DEFAULT_CHUNK_SIZE = 10
DEFAULT_BACKPRESSURE_SIZE = 100


@overload
def as_completed(
    refs: Iterable[ObjectRef[T]], *, chunk_size: int = ..., yield_obj_refs: Literal[False] = ..., **options: Any
) -> Iterator[T]: ...
@overload
def as_completed(
    refs: Iterable[ObjectRef[T]], *, chunk_size: int = ..., yield_obj_refs: Literal[True], **options: Any
) -> Iterator[ObjectRef[T]]: ...
def as_completed(
    refs: Iterable[ObjectRef[Any]],
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    yield_obj_refs: bool = False,
    **options: Any,
) -> Iterator[Any]:
    """The values of the references, each as soon as it is there: in the order in which the tasks end.

    Args:
        chunk_size: at least 1; for Ray's sake. Ray collects so many before it yields the first; here none waits for
            another.
        yield_obj_refs: yield the references instead of their values.
        options: `timeout` and `fetch_local`, for Ray's sake. They bound how long a chunk is collected there.

    Raises:
        ValueError: duplicates, or an option out of range.
        TypeError: something that is no ObjectRef.
        RayTaskError: from the iterator, in place of the value of a task that raised. The iterator ends there; to go
            on past errors, ask for references.
    """
    _check(chunk_size, options)
    waiting = list(refs)
    for ref in waiting:
        if type(ref) is not ObjectRef:
            raise TypeError(f"as_completed() takes ObjectRefs; there is a {type(ref).__name__} among them")
    if len(set(waiting)) != len(waiting):
        raise ValueError("as_completed() takes unique ObjectRefs; there are duplicates among them")
    return _as_completed(waiting, yield_obj_refs)


def _as_completed(waiting: list[ObjectRef[Any]], yield_obj_refs: bool) -> Iterator[Any]:
    if not waiting:
        return
    bag = Completions(core())
    try:
        waiting.reverse()
        while waiting:  # emptied: what was yielded is the caller's to keep or let go
            bag.add(waiting.pop())
        yield from _drain(bag, 0, yield_obj_refs)
    finally:
        bag.clear()


@overload
def map_unordered(
    fn: RemoteFunction[..., ObjectRef[T]],
    items: Iterable[Any],
    *,
    backpressure_size: int | None = ...,
    chunk_size: int = ...,
    yield_obj_refs: Literal[False] = ...,
    **options: Any,
) -> Iterator[T]: ...
@overload
def map_unordered(
    fn: RemoteFunction[..., ObjectRef[T]],
    items: Iterable[Any],
    *,
    backpressure_size: int | None = ...,
    chunk_size: int = ...,
    yield_obj_refs: Literal[True],
    **options: Any,
) -> Iterator[ObjectRef[T]]: ...
def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = DEFAULT_BACKPRESSURE_SIZE,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    yield_obj_refs: bool = False,
    **options: Any,
) -> Iterator[Any]:
    """The values of `fn.remote(item)` for each item, in the order in which the tasks end.

    Nothing is submitted before the first value is asked for.

    Args:
        items: taken one by one, as there is room for another task. May be endless.
        backpressure_size: at least 1; so many tasks at most are under way, or done and not yet yielded. None: no limit.
        chunk_size: as with `as_completed`; so are `yield_obj_refs`, `options` and what is raised.
    """
    if backpressure_size is not None and backpressure_size <= 0:
        raise ValueError("backpressure_size must be positive.")
    _check(chunk_size, options)
    return _map_unordered(fn, items, backpressure_size, yield_obj_refs)


def _map_unordered(fn: Any, items: Iterable[Any], most: int | None, yield_obj_refs: bool) -> Iterator[Any]:
    bag = Completions(core())
    try:
        for item in items:
            bag.add(fn.remote(item))
            if most is not None:
                yield from _drain(bag, most - 1, yield_obj_refs)
        yield from _drain(bag, 0, yield_obj_refs)
    finally:
        bag.clear()


def _drain(bag: Completions, down_to: int, yield_obj_refs: bool) -> Iterator[Any]:
    while len(bag) > down_to:
        ref = bag.next()
        assert ref is not None
        value = ref if yield_obj_refs else get(ref)
        del ref  # before the yield: the caller may take its time
        yield value
        del value


def _check(chunk_size: int, options: dict[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError("`chunk_size` must be >= 1")
    if "num_returns" in options:
        raise ValueError("Use the `chunk_size` argument instead of `num_returns`.")
    unknown = options.keys() - {"timeout", "fetch_local"}
    if unknown:
        raise TypeError(f"unexpected keyword argument(s): {', '.join(sorted(unknown))}")
    timeout = options.get("timeout")
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout must not be negative; it is {timeout}")


def get_node_ip_address(address: str | None = None) -> str:
    """The address of this process's node, under which the others of the session reach it.

    Args:
        address: accepted for Ray's sake: of the peer that wants it. All reach a node under the same one.
    """
    here = core()
    return next(str(facts["host"]) for facts in here.ask(HEAD, "nodes") if facts["node"] == here.node)
