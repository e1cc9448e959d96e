"""References in the order in which their values come."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

from sparkray_core.model.entries import Entry
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.pump import Getter, now


class Completions:
    """A bag that gives back each reference once its value or error is there, in the order in which these came.

    O(1) for each, however many are in the bag: it waits on the objects themselves, where `wait` looks at all of them
    anew. For one thread at a time.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._refs: dict[Entry, ObjectRef[Any]] = {}
        self._came: deque[Entry] = deque()  # in the bag, or taken out of it by `discard`
        self._getter: Getter | None = None  # while a thread waits
        self.missing = 1  # whoever takes them out wants each as it comes

    def __len__(self) -> int:
        return len(self._refs)

    def add(self, ref: ObjectRef[Any]) -> None:
        """Put a reference in that is not in yet. Nothing is handed in for it until `next` has to wait."""
        entry, core = ref._entry, self._core
        self._refs[entry] = ref
        with core.lock:
            if entry.value is None and core.owner.ended is None:
                if entry.waiters is None:
                    entry.waiters = []
                entry.waiters.append(self)
                core._perform(core.owner.want([entry], now()))
                return
        self._came.append(entry)

    def entry_ready(self, entry: Entry) -> None:
        """Called with the core's lock held, in whatever thread reads the sockets."""
        self._came.append(entry)
        if self._getter is not None:
            self._getter.finish()

    def next(self, timeout: float | None = None) -> ObjectRef[Any] | None:
        """Take out the next one; None when the bag is empty, or nothing came within `timeout` seconds.

        Raises:
            RaySystemError: the session ended.
        """
        deadline = None if timeout is None else now() + timeout
        while self._refs:
            while self._came:
                ref = self._refs.pop(self._came.popleft(), None)
                if ref is not None:
                    return ref
            self._wait(deadline)
            if not self._came and deadline is not None and now() >= deadline:
                return None
        return None

    def _wait(self, deadline: float | None) -> None:
        core = self._core
        getter = Getter(1)
        with core.lock:
            core._kick()  # which may settle some
            if self._came:
                return
            core._check_open()
            self._getter = getter
        unblock = core.on_block(None, None) if core.on_block is not None else None
        try:
            core.pump.lead(getter, deadline)
        finally:
            self._getter = None
            if unblock is not None:
                unblock()

    def discard(self, ref: ObjectRef[Any]) -> None:
        """Take a reference out, whether its value is there or not."""
        entry = ref._entry
        if self._refs.pop(entry, None) is not None:
            with self._core.lock:
                if entry.value is None and entry.waiters:
                    with contextlib.suppress(ValueError):
                        entry.waiters.remove(self)

    def clear(self) -> None:
        """Take all out, so that nothing here keeps a reference alive."""
        for ref in list(self._refs.values()):
            self.discard(ref)
        self._came.clear()
