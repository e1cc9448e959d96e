"""What a driver knows of nodes that are gone, beyond the fact: what they said last, and what somebody else says of it.

A node tells its drivers of its warnings while it lives (`Words`, in its raylet): once it is gone, its log may be on a
disk that nobody can read. Whoever knows more of its end (Spark, of an executor's) says so later, with `explain`; errors
that are raised after that carry it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from sparkray_core.ids import NodeId
from sparkray_core.messages import FAILED, Value
from sparkray_core.model.bounded import Recent

KEPT_LINES = 20  # of each node
_KEPT_NODES = 1000
MOST_LINES_A_SECOND = 20  # that a node sends; what it warns of beyond that is in its log only
_MOST_CHARACTERS = 1000  # of one of them


class Words(logging.Handler):
    """The warnings of this process, until they are fetched."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._lines: deque[str] = deque(maxlen=MOST_LINES_A_SECOND)
        self._second, self._count = 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        second = int(self._clock())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        if self._count <= MOST_LINES_A_SECOND:
            at = time.strftime("%H:%M:%S", time.localtime(record.created))
            self._lines.append(f"{at} {record.levelname} {record.getMessage()}"[:_MOST_CHARACTERS])

    def fetch(self) -> list[str]:
        lines = []
        while self._lines:  # other threads of this process may log meanwhile
            lines.append(self._lines.popleft())
        return lines


class Obituaries:
    def __init__(self) -> None:
        self.head: NodeId | None = None  # the node that has the head, where it is not the driver's own
        # Called by the thread that heard of it, with the core's lock held.
        self.on_gone: Callable[[NodeId, str], None] | None = None
        self._words: Recent[NodeId, deque[str]] = Recent(_KEPT_NODES)
        self._gone: Recent[NodeId, str] = Recent(_KEPT_NODES)  # and what is known of it by now
        self._ended_by: NodeId | None = None  # the session, with the head on it

    def said(self, node: NodeId, lines: Sequence[str]) -> None:
        words = self._words.get(node) or deque(maxlen=KEPT_LINES)
        words.extend(lines)
        self._words.remember(node, words)

    def last_words(self, node: NodeId) -> list[str]:
        return list(self._words.get(node) or ())

    def gone(self, node: NodeId, why: str) -> None:
        if node not in self._gone:
            self._gone.remember(node, "")
            if self.on_gone is not None:
                self.on_gone(node, why)

    def session_ended(self, why: str) -> None:
        """For the reason that its head is gone, or for another."""
        if self.head is not None and (self.head.hex() in why or why.startswith("the master is gone")):
            self._ended_by = self.head
            self.gone(self.head, why)

    def explain(self, node: NodeId, sentence: str) -> None:
        if node in self._gone:
            self._gone.remember(node, sentence)

    def known_of(self, node: NodeId) -> str:
        """Indented lines; empty if it is nothing."""
        sentence = self._gone.get(node)
        words = self.last_words(node)
        lines = [f"  {sentence}"] if sentence else []
        if words:
            lines += [f"  The last that node {node.hex()} has warned of:"]
            lines += [f"    {line}" for text in words for line in text.splitlines()]
        return "\n".join(lines)

    def completed(self, text: str) -> str:
        """Of an error, with what is known by now of the nodes whose end it tells of."""
        named = [node for node, _ in self._gone.items() if node.hex() in text]
        ended_by = self._ended_by
        if ended_by is not None and ended_by not in named and "session ended" in text:
            named.append(ended_by)
        return "\n".join([text, *(known for node in named if (known := self.known_of(node)))])

    def completed_failure(self, value: Value) -> Value:
        """The same of the value of an object that the system has failed to make."""
        if len(self._gone) and isinstance(value, tuple) and value[0] == FAILED:
            kind, name, sentence, *facts = value
            return (kind, name, self.completed(sentence), *facts)
        return value
