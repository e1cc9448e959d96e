"""`sparkray.actor`: what Ray has under this name."""

from __future__ import annotations

from typing import NoReturn

from sparkray.actor_class import ActorClass
from sparkray.actor_handle import ActorHandle, ActorMethod
from sparkray_core.run import current_task

ActorProxy = ActorHandle  # Ray's name for it in type hints: ActorProxy[Cls]

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "ActorProxy", "exit_actor"]


def exit_actor() -> NoReturn:
    """End the actor whose method this is called in. It is not restarted; its caller gets `ActorDiedError`.

    Raises:
        TypeError: not called in an actor.
    """
    if current_task.actor is None:
        raise TypeError("exit_actor() was called outside of an actor")
    raise current_task.ExitActor
