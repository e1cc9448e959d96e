"""Names of actors, each for one living actor at a time."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sparkray_core.ids import ActorId, ProcessId, owner_of


class ActorNames:
    """A name is claimed before its actor is created, so that two who create at once do not both succeed."""

    def __init__(self) -> None:
        self._by_key: dict[str, tuple[ActorId, Any]] = {}
        self._keys: dict[ActorId, str] = {}

    def claim(self, key: str, actor: ActorId, facts: Any) -> tuple[ActorId, Any] | None:
        """None: the name is the actor's. Otherwise the actor that has it, with the facts of its handle."""
        found = self._by_key.get(key)
        if found is None:
            self._by_key[key] = (actor, facts)
            self._keys[actor] = key
        return found

    def find(self, key: str) -> tuple[ActorId, Any] | None:
        return self._by_key.get(key)

    def key_of(self, actor: ActorId) -> str:
        """Namespace and name that the actor has; empty without one."""
        return self._keys.get(actor, "")

    def keys(self) -> list[str]:
        return sorted(self._by_key)

    def release(self, actor: ActorId) -> None:
        """The actor is dead: another may have its name."""
        key = self._keys.pop(actor, None)
        if key is not None:
            del self._by_key[key]

    def forget(self, process: ProcessId, created: Collection[ActorId]) -> None:
        """The process is gone: so are the names that it claimed and made no actor for."""
        for actor in [actor for actor in self._keys if owner_of(actor) == process and actor not in created]:
            self.release(actor)
