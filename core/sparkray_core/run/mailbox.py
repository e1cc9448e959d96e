"""What threads tell the loop."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from sparkray_core.run.loop import Loop

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Items are handed over in the loop's thread, in the order in which they were put."""

    def __init__(self, loop: Loop, on_item: Callable[[T], object]) -> None:
        self._loop = loop
        self._on_item = on_item
        self._items: deque[T] = deque()
        self._lock = threading.Lock()  # a descriptor that was closed may be another's by the time that one writes
        self._heard, self._tell = os.pipe()
        for descriptor in (self._heard, self._tell):
            os.set_blocking(descriptor, False)
        self._closed = False
        loop.watch(self._heard, self._on_readable)

    def put(self, item: T) -> None:
        """From any thread. Once it is closed nobody hears of it."""
        self._items.append(item)
        with self._lock, contextlib.suppress(BlockingIOError):  # then the loop has not read the last ones yet
            if not self._closed:
                os.write(self._tell, b".")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._loop.forget(self._heard)
            os.close(self._heard)
            os.close(self._tell)

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._heard, 4096)
        while self._items and not self._closed:
            self._on_item(self._items.popleft())
