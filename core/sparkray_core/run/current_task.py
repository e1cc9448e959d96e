"""What runs here and now: one task in a task worker, several in an actor with threads or coroutines."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from sparkray_core.ids import TaskId
from sparkray_core.messages import StartActor


class ExitActor(BaseException):
    """Raised by `exit_actor()` in a method: the actor ends, on purpose."""


class Running(NamedTuple):
    task: TaskId
    name: str


host = "127.0.0.1"  # under which others reach this node
actor: StartActor | None = None  # what this process is, if it is an actor
instance: Any = None  # and the user's object
on_exit: Callable[[], None] | None = None  # `exit_actor()` was called in it, wherever: user code may catch `ExitActor`
asked_to_exit: ContextVar[bool] = ContextVar("asked_to_exit", default=False)  # by the call that runs here
_running: ContextVar[tuple[bytes, int, str] | None] = ContextVar("running", default=None)

set_running = _running.set  # (caller, count, name): a tuple that costs nothing to make


def get() -> Running | None:
    """The task that the calling code belongs to; None in a driver."""
    running = _running.get()
    if running is None:
        return None
    caller, count, name = running
    return Running(TaskId(caller + count.to_bytes(8, "big")), name)
