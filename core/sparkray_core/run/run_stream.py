"""Running a generator, and sending what it yields. The half of `execute` for tasks whose result is a stream."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import ProcessId, object_id, task_id
from sparkray_core.messages import HOLDS, STREAM_GATHERED, ResultTuple, TaskTuple, Value
from sparkray_core.run import execute
from sparkray_core.run.current_task import set_running
from sparkray_core.wire import values

if TYPE_CHECKING:
    from sparkray_core.run.core import Core
    from sparkray_core.run.outlet import Outlet

END: Value = values.to_inline(values.serialize(None))


def run(
    core: Core, caller: ProcessId, function: Callable[..., Any], name: str, task: TaskTuple, outlet: Outlet
) -> ResultTuple:
    """`execute.run`, of a generator function. An error that it raises is its last item."""
    count, _, _, payload, refs = task
    found: list[Any] = []
    set_running((caller, count, name))
    item: Any = None
    try:
        args, kwargs = execute.arguments(core, payload, refs, found)
        made = as_iterator(function(*args, **kwargs), name)
        del args, kwargs
        for item in made:
            if outlet.wants():
                outlet.put(execute.pack(core, caller, count, outlet.index, item))
            item = None  # it may be large, or hold references
            if outlet.ahead > 0 and outlet.full:
                outlet.wait_read()
            if outlet.closed:
                _close(made)
                break
        made = None
    except execute.ENDS as end:
        execute.take_along(end, found)
        raise
    except BaseException as error:  # noqa: BLE001 - as in `execute.run`
        item = made = None
        core.records.failed(caller, count, error)
        if outlet.wants():
            outlet.put(execute.failure(name, error))
    return count, outlet.answer(_end(caller, outlet)), execute.still_held(core, found) if found else None


async def run_async(
    core: Core, caller: ProcessId, function: Callable[..., Any], name: str, task: TaskTuple, outlet: Outlet
) -> ResultTuple:
    """`run`, of an async generator function on an event loop that is shared with other calls."""
    from asyncio import CancelledError  # imported by whoever calls this

    count, _, _, payload, refs = task
    found: list[Any] = []
    set_running((caller, count, name))
    try:
        args, kwargs = execute.arguments(core, payload, refs, found)
        made = function(*args, **kwargs)
        del args, kwargs
        if inspect.isasyncgen(made):
            try:
                async for item in made:
                    if not await _pass_on(core, outlet, item):
                        break
                    del item
            finally:
                await made.aclose()
        else:
            iterator = as_iterator(made, name)
            for item in iterator:
                if not await _pass_on(core, outlet, item):
                    _close(iterator)
                    break
                del item
        made = iterator = None
    except (*execute.ENDS, CancelledError) as end:
        execute.take_along(end, found)
        raise
    except BaseException as error:  # noqa: BLE001 - as in `execute.run`
        made = iterator = None
        core.records.failed(caller, count, error)
        if outlet.wants():
            outlet.put(execute.failure(name, error))
    return count, outlet.answer(_end(caller, outlet)), execute.still_held(core, found) if found else None


def _end(caller: ProcessId, outlet: Outlet) -> Value:
    if outlet.ahead != STREAM_GATHERED:
        return END
    from sparkray_core.run.ref_generator import gathered

    task = task_id(caller, outlet.count)
    objects = tuple(object_id(task, index) for index in range(1, outlet.index + 1))
    return (HOLDS, gathered(list(objects)), objects)


async def _pass_on(core: Core, outlet: Outlet, item: Any) -> bool:
    """Whether the generator may go on."""
    if outlet.wants():
        outlet.put(execute.pack(core, outlet.caller, outlet.count, outlet.index, item))
    del item
    while outlet.full:
        await _wait_read(outlet)
    return not outlet.closed


async def _wait_read(outlet: Outlet) -> None:
    import asyncio  # 50 ms, and few use it

    outlet.flush()
    loop = asyncio.get_running_loop()
    more = asyncio.Event()
    outlet.resume = lambda: loop.call_soon_threadsafe(more.set)
    if outlet.full:
        await more.wait()
    outlet.resume = None


def as_iterator(made: Any, name: str) -> Any:
    """
    Raises:
        ValueError: the function did not return a generator or another iterator.
    """
    if inspect.isasyncgen(made):
        return _driven(made)
    if isinstance(made, Iterator):
        return made
    raise ValueError(
        f"{name} was called with num_returns='streaming', so it has to be a generator (a function that uses 'yield'); "
        f"it returned {type(made).__name__}"
    )


def _driven(made: AsyncGenerator[Any, Any]) -> Iterator[Any]:
    """An async generator's items, on an event loop of its own."""
    import asyncio

    loop = asyncio.new_event_loop()
    try:
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield loop.run_until_complete(made.__anext__())
    finally:
        loop.run_until_complete(made.aclose())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _close(made: Any) -> None:
    close = getattr(made, "close", None)
    if close is not None:
        close()
