"""The functions of the public API: Ray's names, arguments and semantics."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from copy import deepcopy
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from sparkray.actor_class import ActorClass
from sparkray.actor_handle import ActorHandle, actor_core
from sparkray.options import Options
from sparkray.remote_function import RemoteFunction
from sparkray.session import core, core_of
from sparkray_core.ids import HEAD
from sparkray_core.run import object_ref
from sparkray_core.run.object_ref import ObjectRef, call_in_loop
from sparkray_core.run.ref_generator import DynamicObjectRefGenerator, ObjectRefGenerator

P = ParamSpec("P")
T = TypeVar("T")
REMEMBERED_REFS = 16  # that a `wait` leaves at least: fewer are checked sooner than compared
W = TypeVar("W", bound="ObjectRef[Any] | ObjectRefGenerator[Any]")  # what can be waited for


class _Decorator(Protocol):
    """What `remote(num_cpus=2)` returns."""

    @overload
    def __call__(self, target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, Coroutine[Any, Any, T]], /) -> RemoteFunction[P, ObjectRef[T]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: Callable[P, Iterator[T] | AsyncIterator[T]], /
    ) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...
    @overload
    def __call__(self, target: Callable[P, T], /) -> RemoteFunction[P, ObjectRef[T]]: ...


@overload
def remote(target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, Coroutine[Any, Any, T]], /) -> RemoteFunction[P, ObjectRef[T]]: ...
@overload
def remote(  # type: ignore[overload-overlap]
    target: Callable[P, Iterator[T] | AsyncIterator[T]], /
) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...
@overload
def remote(target: Callable[P, T], /) -> RemoteFunction[P, ObjectRef[T]]: ...
@overload
def remote(*, num_returns: Literal["streaming"], **options: Any) -> _Decorator: ...
@overload
def remote(  # pyright: ignore[reportOverlappingOverload]
    *, num_returns: Literal["dynamic"], **options: Any
) -> Callable[[Callable[P, Any]], RemoteFunction[P, ObjectRef[DynamicObjectRefGenerator]]]: ...
@overload
def remote(  # pyright: ignore[reportOverlappingOverload]
    *, num_returns: int, **options: Any
) -> Callable[[Callable[P, Any]], RemoteFunction[P, Any]]: ...
@overload
def remote(**options: Any) -> _Decorator: ...
def remote(*args: Any, **options: Any) -> Any:
    """Make a function or class remote: `@remote`, `@remote(num_cpus=2)` or `remote(f)`.

    Raises:
        TypeError: not a function or class.
        ValueError: an unknown option.
    """
    if len(args) == 1 and not options:
        return _make(args[0], {})
    if args:
        raise TypeError("remote() takes either one function or class, or options by keyword: @remote(num_cpus=2)")
    return lambda target: _make(target, options)


def _make(target: Any, options: dict[str, Any]) -> Any:
    if inspect.isclass(target):
        return ActorClass(target, Options().updated(options, "actor"))
    if inspect.isfunction(target) or inspect.isbuiltin(target):
        return RemoteFunction(target, Options().updated(options, "task"))
    raise TypeError(f"remote() takes a function or a class, not {target!r}")


@overload
def get(object_refs: ObjectRef[T], *, timeout: float | None = None, copy: bool = False) -> T: ...
@overload
def get(
    object_refs: ObjectRefGenerator[T], *, timeout: float | None = None, copy: bool = False
) -> ObjectRefGenerator[T]: ...
@overload
def get(object_refs: Sequence[ObjectRef[T]], *, timeout: float | None = None, copy: bool = False) -> list[T]: ...
def get(object_refs: Any, *, timeout: float | None = None, copy: bool = False) -> Any:
    """The value of a reference, or of each in a list.

    Args:
        timeout: seconds; None waits without limit, 0 asks whether it is there.
        copy: a copy of one's own, with arrays that can be written to, instead of a view of shared memory.

    Raises:
        GetTimeoutError: not there in time; the task runs on.
        RayTaskError: the task raised. What is raised here is an instance of the task's own exception class too.
        RayError: the system failed; see `sparkray.exceptions`.
    """
    if copy:
        return deepcopy(get(object_refs, timeout=timeout))
    if type(object_refs) is ObjectRef:
        return core_of(object_refs).get_one(object_refs._entry, timeout)
    if type(object_refs) is ObjectRefGenerator:
        return object_refs
    if not isinstance(object_refs, list):
        raise ValueError(f"get() takes an ObjectRef or a list of ObjectRefs, not {type(object_refs).__name__}")
    for ref in object_refs:
        if type(ref) is not ObjectRef:
            raise TypeError(f"get() takes ObjectRefs; there is a {type(ref).__name__} in the list")
    here = core_of(object_refs[0]) if object_refs else core()
    return here.get([ref._entry for ref in object_refs], timeout)


def put(value: T, *, replicas: int = 1) -> ObjectRef[T]:
    """Store an immutable snapshot of the value and return a reference to it.

    Args:
        replicas: so many nodes are to have it, this one included; copies are made in the background, on other hosts
            first. What a task or an actor has put outlives its node then (else only its process). With too few nodes
            there are as many as can be, more when nodes join, and a warning says so once. What the driver's own
            program puts goes with the driver, however many copies there are: these only spread who reads it.

    Raises:
        ValueError: `replicas` is not an int of at least 1.
        TypeError: the value is an ObjectRef (put it into a list to store a reference), or cannot be pickled.
        ObjectStoreFullError: there is no room for it.
    """
    if type(value) is ObjectRef:
        raise TypeError(
            "Calling 'put' on an ObjectRef is not allowed. To store a reference, wrap it in a list: put([ref])."
        )
    if type(replicas) is int and replicas == 1:
        return core().put(value)
    if type(replicas) is not int or replicas < 1:
        raise ValueError(f"put() keeps a value on at least one node: replicas must be an int from 1, not {replicas!r}")
    return core().put(value, replicas)


def wait(
    ray_waitables: list[W], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[W], list[W]]:
    """Wait until `num_returns` of the references have their value or error.

    There may be `ObjectRefGenerator`s in the list: they are ready when `next` does not wait.

    Args:
        timeout: seconds; None waits without limit, 0 asks.
        fetch_local: accepted for Ray's sake; values are fetched when they are read.

    Returns:
        (ready, rest), both in the order given; at most `num_returns` are in the first.

    Raises:
        TypeError: not a list of ObjectRefs.
        ValueError: duplicates, or num_returns or timeout out of range.
    """
    if not _is_rest(ray_waitables):
        _check_refs(ray_waitables)
    _check_numbers(ray_waitables, num_returns, timeout)
    if not ray_waitables:
        return [], []
    here = core_of(ray_waitables[0])
    here.refuse_foreign([ray_waitables[0]._entry])  # that they are of one session is taken for granted: a wait is short
    if not _are_ready(ray_waitables, num_returns):
        here.wait([ref._entry for ref in ray_waitables], num_returns, timeout)
    ready, rest = _ready_and_rest(ray_waitables, num_returns)
    if len(rest) >= REMEMBERED_REFS:
        here.remember_rest(rest[:])
    return ready, rest


def _is_rest(refs: Any) -> bool:
    """Whether it is what the last wait left, as in a loop of waits: then it needs no look at each of its references."""
    here = object_ref.current
    last = here.rest if here is not None else None
    if last is None or type(refs) is not list or len(refs) != len(last):
        return False
    try:
        return refs == last  # by identity. Another object in it may have an idea of its own of what is equal
    except Exception:  # noqa: BLE001
        return False


async def wait_async(
    ray_waitables: list[W], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[W], list[W]]:
    """`wait`, for coroutines: others run meanwhile."""
    _check_refs(ray_waitables)
    _check_numbers(ray_waitables, num_returns, timeout)
    if not ray_waitables:
        return [], []
    import asyncio  # whoever awaits has imported it

    loop = asyncio.get_running_loop()
    enough = asyncio.Event()

    def look() -> None:
        if sum(ref._entry.value is not None for ref in ray_waitables) >= num_returns:
            enough.set()

    here = core_of(ray_waitables[0])
    here.refuse_foreign([ref._entry for ref in ray_waitables])
    for ref in ray_waitables:
        if ref._entry.value is None:
            here.notify(ref._entry, lambda: call_in_loop(loop, look))
    look()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(enough.wait(), timeout)
    return _ready_and_rest(ray_waitables, num_returns)


def _check_refs(refs: Any) -> None:
    if not isinstance(refs, list):
        raise TypeError(f"wait() takes a list of ObjectRefs, not {type(refs).__name__}")
    if not refs:
        return
    if not {*map(type, refs)} <= {ObjectRef, ObjectRefGenerator}:
        raise TypeError(
            "wait() takes a list of ObjectRefs and ObjectRefGenerators; there is something else in the list"
        )
    if len(set(refs)) != len(refs):
        raise ValueError("wait() takes a list of unique ObjectRefs; there are duplicates in it")


def _check_numbers(refs: list[Any], num_returns: int, timeout: float | None) -> None:
    if not refs:
        return
    if not 0 < num_returns <= len(refs):
        raise ValueError(f"num_returns must be from 1 to {len(refs)}, the number of references; it is {num_returns}")
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout must not be negative; it is {timeout}")


def _are_ready(refs: list[W], wanted: int) -> bool:
    """Whether so many are there; looks no further than it must."""
    for ref in refs:
        if ref._entry.value is not None:
            wanted -= 1
            if not wanted:
                return True
    return False


def _ready_and_rest(refs: list[W], num_returns: int) -> tuple[list[W], list[W]]:
    ready: list[W] = []
    rest: list[W] = []
    begin = 0  # of those that are not ready. In a loop of waits the first one often is: the rest is one slice
    for index, ref in enumerate(refs):
        if ref._entry.value is not None:
            ready.append(ref)
            rest += refs[begin:index]
            begin = index + 1
            if len(ready) == num_returns:
                break
    rest += refs[begin:]
    return ready, rest


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor at once. Its running and later calls raise `ActorDiedError`.

    Args:
        no_restart: False lets it use one of its `max_restarts`.

    Raises:
        ValueError: not an actor handle.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() takes an actor handle, not {type(actor).__name__}")
    actor_core(actor).kill_actor(actor._actor, restart=not no_restart)


def cancel(
    ray_waitable: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True
) -> None:
    """Cancel the task or actor call that makes this value. `get` of it then raises `TaskCancelledError`.

    One that waits is dropped. In one that runs a `KeyboardInterrupt` is raised (in a coroutine `CancelledError`), which
    interrupts a sleep, too; if the task catches it and returns, its value counts. One that has ended stays as it ended.

    Args:
        force: kill the worker that runs the task, instead of interrupting it. Not for actors: use `kill`.
        recursive: cancel what the task has submitted, too.

    Raises:
        TypeError: not an ObjectRef.
        ValueError: force=True for a call of an actor (by its caller; others' `force` means nothing for one).
    """
    if type(ray_waitable) is ObjectRefGenerator:
        core_of(ray_waitable).cancel(ray_waitable._stream.end, force, recursive)
    elif type(ray_waitable) is ObjectRef:
        core_of(ray_waitable).cancel(ray_waitable._entry, force, recursive)
    else:
        raise TypeError(f"cancel() takes an ObjectRef or ObjectRefGenerator, not {type(ray_waitable).__name__}")


def nodes() -> list[dict[str, Any]]:
    """The nodes that are or were in the cluster, as Ray describes them; resources in whole units."""
    return [_describe(facts) for facts in core().ask(HEAD, "nodes")]  # our raylet may not have heard of all yet


def cluster_resources() -> dict[str, float]:
    """All that the live nodes have together."""
    total: dict[str, float] = {}
    for node in nodes():
        if node["Alive"]:
            for name, amount in node["Resources"].items():
                total[name] = total.get(name, 0.0) + amount
    return total


def available_resources() -> dict[str, float]:
    """What of `cluster_resources` is free now; what is used up is left out. It lags by a beat (0.5 s)."""
    free = core().ask(HEAD, "available")
    return {name: amount / 1000 for name, amount in free.items() if amount}


def _describe(facts: dict[str, Any]) -> dict[str, Any]:
    port = int(facts["address"].rpartition(":")[2] or 0)  # none in local mode
    return {
        "NodeID": facts["node"].hex(),
        "Alive": facts["alive"],
        "NodeManagerAddress": facts["host"],
        "NodeManagerHostname": facts["host"],
        "NodeManagerPort": port,
        "ObjectManagerPort": port,  # one socket for both here
        "ObjectStoreSocketName": facts["folder"] + "/raylet.sock",
        "MetricsExportPort": 0,  # not of nodes here: see init()["metrics_export_port"]
        "RuntimeEnvAgentPort": 0,
        "NodeName": facts["host"],
        "DeathReason": 0 if facts["alive"] else 2,  # Ray's number for an unexpected end
        "DeathReasonMessage": facts["why"],
        "alive": facts["alive"],
        "RayletSocketName": facts["folder"] + "/raylet.sock",
        "Address": facts["address"],
        "ObjectStoreMemory": facts["store_bytes"],
        "Resources": {name: amount / 1000 for name, amount in facts["resources"].items()},
        "Labels": facts["labels"],
        "Draining": facts["draining"],  # why it is to leave; empty: it is not
    }
