"""One descriptor that stands for many: for whoever has a selector of his own, and room for one in it."""

from __future__ import annotations

import select
import sys

if sys.platform == "linux":

    class Descriptors:
        """Its own is readable whenever one of these is."""

        def __init__(self) -> None:
            self._poll = select.epoll()
            self.fileno = self._poll.fileno()

        def add(self, descriptor: int) -> None:
            self._poll.register(descriptor, select.EPOLLIN)

        def remove(self, descriptor: int) -> None:
            """Before it is closed."""
            self._poll.unregister(descriptor)

        def ready(self) -> set[int]:
            """Those that are readable now, or broken. It takes a microsecond."""
            return {descriptor for descriptor, _ in self._poll.poll(0)}

        def close(self) -> None:
            self._poll.close()

else:

    class Descriptors:
        """Its own is readable whenever one of these is."""

        def __init__(self) -> None:
            self._queue = select.kqueue()
            self.fileno = self._queue.fileno()
            self._count = 0

        def add(self, descriptor: int) -> None:
            self._change(descriptor, select.KQ_EV_ADD)
            self._count += 1

        def remove(self, descriptor: int) -> None:
            """Before it is closed."""
            self._change(descriptor, select.KQ_EV_DELETE)
            self._count -= 1

        def _change(self, descriptor: int, how: int) -> None:
            self._queue.control([select.kevent(descriptor, select.KQ_FILTER_READ, how)], 0)

        def ready(self) -> set[int]:
            """Those that are readable now, or broken."""
            return {event.ident for event in self._queue.control(None, self._count or 1, 0)}

        def close(self) -> None:
            self._queue.close()
