"""`sparkray.actor`: what Ray has under this name."""

from __future__ import annotations

from typing import NoReturn

from sparkray.actor_class import ActorClass, method
from sparkray.actor_handle import ActorHandle, ActorMethod
from sparkray_core.run import current_task

ActorProxy = ActorHandle  # Ray's name for it in type hints: ActorProxy[Cls]

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "ActorProxy",
    "exit_actor",
    "method",
]


class ActorClassInheritanceException(TypeError):
    """Ray's, for programs that catch it. Nothing raises it: actor classes can be inherited from."""


def exit_actor() -> NoReturn:
    """End the actor whose method, constructor or background task this is called in, and what is queued for it fails.

    It is not restarted; its caller gets `ActorDiedError`, even if the exception that this raises is caught on its way.

    Raises:
        TypeError: not called in an actor.
    """
    if current_task.actor is None:
        raise TypeError("exit_actor() was called outside of an actor")
    current_task.asked_to_exit.set(True)
    if current_task.on_exit is not None:
        current_task.on_exit()
    raise current_task.ExitActor
