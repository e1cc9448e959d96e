"""Running one task or call: arguments in, values out. Here user code runs, and its errors become values."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from types import CoroutineType, FrameType, GeneratorType
from typing import TYPE_CHECKING, Any

from sparkray_core import errors
from sparkray_core.ids import ObjectId, ProcessId, object_id, task_id
from sparkray_core.messages import (
    ERROR,
    FAILED,
    HOLDS,
    PLAIN,
    STORED,
    FreeObjects,
    ResultTuple,
    Returns,
    TaskTuple,
    Value,
)
from sparkray_core.model.effects import Effect
from sparkray_core.model.entries import is_stored
from sparkray_core.run import current_task, modules
from sparkray_core.run.brief import are_brief
from sparkray_core.run.current_task import ExitActor, set_running
from sparkray_core.run.failures import error_of
from sparkray_core.wire import values

if TYPE_CHECKING:
    from sparkray_core.run.core import Core

ENDS = (KeyboardInterrupt, SystemExit, ExitActor)  # of user code: the worker's to handle, and no errors of the task
REPR_LIMIT = 200  # characters of an actor's repr in the errors of its methods
_FOUND = "_sparkray_found"  # what an end takes along, as an attribute: see `found_by`
NO_ARGUMENTS = b""  # the payload of a call without any: nothing to pickle on either side


def arguments(
    core: Core, payload: Value, refs: list[tuple[int | str, Value, ObjectId]] | None, found: list[Any]
) -> tuple[Any, dict[str, Any]]:
    """The positional and keyword arguments, with the values of those that were passed as references.

    `found` gets the references inside them, which their caller keeps alive only until the task ends.
    """
    args: Any = ()
    kwargs: dict[str, Any] = {}
    try:
        if type(payload) is tuple and payload[0] == PLAIN:
            args = payload[1]
        elif payload != NO_ARGUMENTS:
            args, kwargs = values.from_inline(payload, found.append)
        if refs:
            args = list(args)
            for where, value, some_object in refs:
                if type(value) is tuple and value[0] == STORED:
                    loaded = core.read(some_object, list(value[2]), found.append)
                elif type(value) is tuple and value[0] in (ERROR, FAILED):
                    raise error_of(value)  # a constructor's; a task or call is not even sent then
                else:
                    loaded = values.from_inline(value, found.append)
                if isinstance(where, str):
                    kwargs[where] = loaded
                else:
                    args[where] = loaded
    except ModuleNotFoundError as error:
        raise modules.not_found(error, "an argument") from None
    return args, kwargs


def run(
    core: Core, caller: ProcessId, function: Callable[..., Any], name: str, task: TaskTuple, later: bool = False
) -> ResultTuple:
    """Run one task; the tuple is the answer to its owner.

    Args:
        later: the caller calls `packed` before the answer leaves.
    """
    count, _, num_returns, payload, refs = task
    assert type(num_returns) is int  # else `run_stream` has it
    found: list[Any] = []
    set_running((caller, count, name))
    try:
        if refs is None and type(payload) is tuple and payload[0] == PLAIN:
            result = function(*payload[1])
        else:
            args, kwargs = arguments(core, payload, refs, found)
            result = function(*args, **kwargs)
            del args, kwargs  # may hold references, which are counted below
        if type(result) is CoroutineType:  # an `async def` task has an event loop of its own
            import asyncio  # 50 ms, and few use it

            result = asyncio.run(result)
        if later and num_returns == 1 and are_brief(result if type(result) is tuple else (result,)):
            answer: Any = (result,)
        else:
            answer = _pack_all(core, caller, name, count, num_returns, result)
        result = None
    except ENDS as end:
        take_along(end, found)
        raise
    except BaseException as error:  # noqa: BLE001 - the user's code: what it raises goes to whoever asks for the value
        core.records.failed(caller, count, error)
        answer = [failure(name, error)] * num_returns
    return count, answer, still_held(core, found) if found else None


def packed(core: Core, caller: ProcessId, answer: Any) -> ResultTuple:
    """The answer as it travels; it leaves next, and the core's lock is held. Of one by `run(..., later=True)`, too.

    Between two tasks of some milliseconds all code is out of the processor's caches: several results that are pickled
    one after the other cost little more than one then.
    """
    count, results, held = answer
    if type(results) is tuple:
        return count, [values.to_inline(values.serialize(results[0]))], held
    lend(core, caller, results)
    return answer  # type: ignore[no-any-return]


def lend(core: Core, to: ProcessId, answer: list[Any]) -> None:
    """Values by `pack` leave next: count who gets them in for the references inside.

    Not before: who dies in between, or does not send them after all, would leave a borrower that never lets go.
    """
    for index, value in enumerate(answer):
        if type(value) is tuple and value[0] == HOLDS:
            inner: Any = tuple(ref if type(ref) is bytes else ref._entry.id for ref in value[2])
            core._kick_if_any()  # the tasks that make them must be known
            effects: list[Effect] = []
            core.owner.refs.lend(inner, to, effects)
            core._perform(effects)
            answer[index] = (HOLDS, value[1], inner)


async def run_async(
    core: Core, caller: ProcessId, function: Callable[..., Any], name: str, task: TaskTuple
) -> ResultTuple:
    """`run`, of a coroutine function."""
    from asyncio import CancelledError  # imported by whoever calls this

    count, _, num_returns, payload, refs = task
    assert type(num_returns) is int  # else `run_stream` has it
    found: list[Any] = []
    set_running((caller, count, name))
    try:
        args, kwargs = arguments(core, payload, refs, found)
        result = await function(*args, **kwargs)
        del args, kwargs
        answer = _pack_all(core, caller, name, count, num_returns, result)
        result = None
    except (*ENDS, CancelledError) as end:
        take_along(end, found)
        raise
    except BaseException as error:  # noqa: BLE001 - as in `run`
        core.records.failed(caller, count, error)
        answer = [failure(name, error)] * num_returns
    return count, answer, still_held(core, found) if found else None


def take_along(end: BaseException, found: list[Any]) -> None:
    """Of a task that is ended by this."""
    vars(end)[_FOUND] = found


def found_by(end: BaseException) -> list[Any]:
    """The references that came in the arguments of the task that was ended by this; for `still_held`, once its frames
    have gone."""
    found: list[Any] = vars(end).pop(_FOUND, [])
    return found


def refuse(task: TaskTuple, name: str, error: BaseException) -> ResultTuple:
    """The answer to a task that cannot even be begun."""
    return task[0], [failure(name, error)] * answers(task[2]), None


def answers(returns: Returns) -> int:
    """How many values an answer has that is one failure; a stream has its end."""
    return returns if type(returns) is int else 1


def _pack_all(core: Core, caller: ProcessId, name: str, count: int, num_returns: int, result: Any) -> list[Value]:
    answer: list[Value] = []
    try:
        if type(result) is GeneratorType and num_returns > 0:
            _pack_yielded(core, caller, name, count, num_returns, result, answer)
        elif num_returns == 1:
            answer.append(pack(core, caller, count, 0, result))
        else:
            _pack_many(core, caller, name, count, num_returns, result, answer)
    except BaseException:
        _free(core, caller, count, answer)
        raise
    return answer


def _free(core: Core, caller: ProcessId, count: int, answer: list[Value]) -> None:
    """Nobody will hear of these: the task failed, or was cancelled, as the next one was packed."""
    task = (core.named.get((caller, count)) if core.named else None) or task_id(caller, count)
    stored = [object_id(task, index) for index, value in enumerate(answer) if is_stored(value)]
    if stored:
        core.send(core.raylet_id, FreeObjects(stored))


def _pack_many(
    core: Core, caller: ProcessId, name: str, count: int, num_returns: int, result: Any, answer: list[Value]
) -> None:
    if num_returns == 0:
        return
    try:
        items = list(result)
    except TypeError:
        raise ValueError(
            f"Task {name} must return {num_returns} values because num_returns={num_returns}, "
            f"but it returned one {type(result).__name__}"
        ) from None
    if len(items) != num_returns:
        raise ValueError(f"Task returned {len(items)} objects, but num_returns={num_returns}.")
    for index, item in enumerate(items):
        answer.append(pack(core, caller, count, index, item))


def _pack_yielded(
    core: Core,
    caller: ProcessId,
    name: str,
    count: int,
    num_returns: int,
    made: GeneratorType[Any, Any, Any],
    answer: list[Value],
) -> None:
    """A generator's first items, for as many references; when it raises or ends too soon, the rest of them fail."""
    try:
        for item in made:
            answer.append(pack(core, caller, count, len(answer), item))
            if len(answer) == num_returns:
                break
        else:
            raise ValueError(f"Task returned {len(answer)} objects, but num_returns={num_returns}.")
        made.close()
    except ENDS:
        raise
    except BaseException as error:  # noqa: BLE001 - as in `run`
        answer += [failure(name, error)] * (num_returns - len(answer))


def pack(core: Core, caller: ProcessId, count: int, index: int, result: Any) -> Value:
    """One returned value as it travels to the caller, who owns it; references inside stay themselves until `lend`."""
    serialized = values.serialize(result)
    if serialized.size <= core.inline_bytes:
        value = values.to_inline(serialized)
    else:
        task = core.named.get((caller, count)) if core.named else None
        value = core.store(object_id(task or task_id(caller, count), index), serialized)
    if serialized.refs:
        return (HOLDS, value, tuple(serialized.refs))
    return value


def still_held(core: Core, found: list[Any]) -> list[ObjectId] | None:
    """Of the references that came in the arguments, those that the caller counts us in for."""
    refs, effects = core.owner.refs, list[Effect]()
    entries = list(dict.fromkeys([ref._entry for ref in found]))
    lent_on = refs.lent_on(entries)
    found.clear()  # so that no reference of ours keeps one alive
    still = refs.outlives(entries, lent_on, effects)
    if effects:
        core.perform(effects)
    return still


def failure_text(name: str, error: BaseException) -> str:
    """What was raised, where, as the caller will read it."""
    return f"ray::{name}() (pid={os.getpid()}, ip={current_task.host})\n{_remote_traceback(error)}"


def failure(name: str, error: BaseException) -> Value:
    """What the task raised, with the traceback of where, as a value."""
    text = _remote_traceback(error)
    if isinstance(error, errors.RayTaskError):  # an argument's or a nested task's: its own story is told in `text`
        error = error.cause
    cause: Any
    try:
        blob, _ = values.serialize_in_band(error)
        if type(pickle.loads(blob)) is not type(error):
            raise TypeError("it comes back as something else")
        cause = errors.Carried(blob, f"{type(error).__name__}: {text}")
    except ENDS:
        raise
    except BaseException as unpicklable:  # noqa: BLE001 - the user's exception class decides what its pickling raises
        cause = errors.RayError(
            f"Exception {type(error).__name__} isn't serializable ({unpicklable}). Original exception:\n{text}"
        )
    wrapped = errors.RayTaskError(name, text, cause, pid=os.getpid(), ip=current_task.host, **_of_actor())
    return (ERROR, *map(bytes, values.serialize(wrapped).parts))


def _of_actor() -> dict[str, str]:
    """The id and the repr of this actor, if it is one."""
    start, instance = current_task.actor, current_task.instance
    if start is None or instance is None:
        return {}
    return {"actor_id": start.actor.hex(), "actor_repr": repr_of(instance)}


def repr_of(instance: object) -> str:
    try:
        told = repr(instance)
    except Exception as error:  # noqa: BLE001 - the user's __repr__
        told = f"<{type(instance).__name__}, whose repr raised {type(error).__name__}>"
    return told if len(told) <= REPR_LIMIT else told[:REPR_LIMIT] + "..."


def _remote_traceback(error: BaseException) -> str:
    """The traceback as the user wrote the code: from below our frames, and without those that our own errors went
    through. (Those of any other error stay: it may be a fault of ours.)"""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame):
        trace = trace.tb_next
    told = traceback.TracebackException(type(error), error, trace or error.__traceback__, compact=True)
    pending = [(told, error)]
    while pending:
        one, whose = pending.pop()
        if isinstance(whose, errors.RayError):
            ours = _our_files(whose)
            one.stack[:] = [frame for frame in one.stack if frame.filename not in ours]
        for inner, inner_error in ((one.__cause__, whose.__cause__), (one.__context__, whose.__context__)):
            if inner is not None and inner_error is not None:
                pending.append((inner, inner_error))
    return "".join(told.format()).rstrip()


def _our_files(error: BaseException) -> set[str]:
    """Of the files that the error went through, those of the engine and of what stands on it."""
    trace, found = error.__traceback__, set()
    while trace is not None:
        if _is_ours(trace.tb_frame):
            found.add(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return found


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("sparkray", "sparkray_core")
