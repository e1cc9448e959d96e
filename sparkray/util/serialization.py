"""How instances of a class travel, told from outside of the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sparkray_core.wire import pickling

T = TypeVar("T")


def register_serializer(cls: type[T], *, serializer: Callable[[T], Any], deserializer: Callable[[Any], T]) -> None:
    """Send instances of exactly `cls` as `serializer(instance)`, and make them again with `deserializer`.

    It holds in this process only: call it wherever such instances are sent from, so in tasks too that return them. The
    deserializer travels along and need not be registered where they are received. `copy` and `pickle` are not changed.

    Args:
        serializer: returns something that can be pickled.
        deserializer: can be pickled itself.
    """

    def reduce(instance: T) -> Any:
        return deserializer, (serializer(instance),)

    pickling.register(cls, reduce)


def deregister_serializer(cls: type) -> None:
    """Undo `register_serializer` in this process. Nothing happens if there was none."""
    pickling.deregister(cls)
