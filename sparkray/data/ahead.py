"""An iterator that runs in a thread, a little ahead of whoever reads it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], most: int) -> Iterator[T]:
    """The same items.

    Args:
        most: so many are made before they are asked for; 0: none, and there is no thread.
    """
    return _threaded(items, most) if most else items


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _threaded(items: Iterator[T], most: int) -> Iterator[T]:
    ready: queue.Queue[T | _End] = queue.Queue()
    room = threading.Semaphore(most)
    stopped = False

    def make() -> None:
        error: BaseException | None = None
        try:
            while room.acquire() and not stopped:
                ready.put(next(items))
        except StopIteration:
            pass
        except BaseException as raised:  # noqa: BLE001  it is raised where the items are read
            error = raised
        close = getattr(items, "close", None)  # a generator's
        if stopped and close is not None:
            close()
        ready.put(_End(error))

    thread = threading.Thread(target=make, name="sparkray-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            room.release()
            yield item
            del item
    finally:  # the reader has had enough, or there are no more
        stopped = True
        room.release()
        thread.join()
