"""Why executors were lost: Spark's word for it, joined with what sparkray's node there said last.

The engine hears of a node's end within milliseconds, or after seconds of its silence. Spark's scheduler learns why the
executor ended by other ways (exit code, the cluster manager's diagnostics), sooner or later than that. So a thread asks
Spark for some seconds, while the session goes on. Then the driver logs one warning with all that is known, errors that
are raised from then on carry it (`obituaries`), and the head says it in `nodes()`.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkray.sparks import AnySpark
from sparkray_core.ids import NodeId
from sparkray_core.run.core import Core
from sparkray_core.run.processes import is_alive

if TYPE_CHECKING:
    from sparkray.cluster_session import ExecutorNode

ASK_S = 15.0  # after a node's end: YARN's word of it takes some seconds, a busy one's more
POLL_S = 0.25
OUTLIVES_S = 1.0  # a JVM that has lost its node may be about to end, too
LAST_ASK_S = 3.0  # at the session's end, for nodes that have been lost only just before
_SHOWN_CHARACTERS = 500
_MEANT = re.compile("killed by driver|decommission", re.IGNORECASE)  # by dynamic allocation, as a rule

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loss:
    node: ExecutorNode
    why: str  # the engine's word
    at: float  # when it was heard of; monotonic seconds
    until: float  # then it is told without Spark's word

    def outlived(self, host: str) -> bool:
        """By its executor, as far as can be seen on this host: then Spark has nothing to say."""
        return self.node.host == host and time.monotonic() - self.at > OUTLIVES_S and is_alive(self.node.jvm)


class Losses:
    """Of one session, from its start to its end."""

    def __init__(self, spark: AnySpark, core: Core, host: str, executors: Callable[[], Iterable[ExecutorNode]]) -> None:
        """
        Args:
            host: this one, as the executors call it.
            executors: those of the session, the lost ones too.
        """
        self._spark, self._core, self._host, self._executors = spark, core, host, executors
        self.told: dict[NodeId, str] = {}  # of nodes that were lost, in a sentence
        self._pending: dict[NodeId, _Loss] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        core.obituaries.head = next((one.node for one in executors() if one.hosts_head), None)
        core.obituaries.on_gone = self._gone

    def _gone(self, node: NodeId, why: str) -> None:
        """The core's lock is held."""
        lost = next((one for one in self._executors() if one.node == node), None)
        if lost is None or lost.executor_id is None:
            return
        with self._lock:
            now = time.monotonic()
            self._pending[node] = _Loss(lost, why, now, now + ASK_S)
            if self._thread is None:
                self._thread = threading.Thread(target=self._ask, daemon=True, name="sparkray-losses")
                self._thread.start()

    def _ask(self) -> None:
        while True:
            self._look()
            with self._lock:
                if not self._pending:
                    self._thread = None
                    return
            time.sleep(POLL_S)

    def _look(self) -> None:
        for loss in list(self._pending.values()):
            said = self._spark.why_lost(str(loss.node.executor_id))
            if said is not None or time.monotonic() > loss.until or loss.outlived(self._host):
                self._tell(loss, said)
                with self._lock:
                    self._pending.pop(loss.node.node, None)

    def _tell(self, loss: _Loss, said: str | None) -> None:
        node, core = loss.node, self._core
        executor = f"executor {node.executor_id}"
        if said is not None:
            sentence = f"Spark says of {executor}: {in_words(said)}"
        elif loss.outlived(self._host):
            sentence = f"Its {executor} (process {node.jvm.pid}) lives on: sparkray's own processes there were ended"
        else:
            waited = time.monotonic() - loss.at
            sentence = f"Spark has said nothing of the end of {executor} within {waited:.0f} s; it may live on"
        self.told[node.node] = sentence
        core.explain_node(node.node, sentence)
        log.log(
            logging.INFO if said is not None and _MEANT.search(said) else logging.WARNING,
            "node %s on %s (%s at %s) is gone: %s\n%s",
            node.node.hex(), node.host, executor, node.executor, loss.why, core.obituaries.known_of(node.node),
        )  # fmt: skip

    def close(self) -> dict[NodeId, str]:
        """What is known of the nodes that were lost. What Spark is still asked for is told now, after a moment."""
        self._core.obituaries.on_gone = None
        with self._lock:
            thread, soon = self._thread, time.monotonic() + LAST_ASK_S
            for loss in self._pending.values():
                loss.until = min(loss.until, soon)
        if thread is not None:
            thread.join(LAST_ASK_S + 1.0)
        return self.told


_OOM = {"137": "SIGKILL, as by the system when memory runs out", "143": "SIGTERM, as by the cluster's manager"}


def in_words(said: str) -> str:
    """What Spark says of an executor's end, without the times, stack traces and lines of shell that YARN and Kubernetes
    put into it."""
    text = re.sub(r"\[\d{4}-\d\d-\d\d [\d:.,]+\]", " ", said)
    text = re.sub(r"\n\s*at [\w.$]+\(.*?\)", " ", text)
    killed = re.search(r"(?i)termination reason:\s*(\w+)", text)
    text = text.partition("The API gave the following container statuses")[0]
    text = re.sub(r"The API gave the following (?:brief reason|message): N/A", " ", text)
    text = " ".join(text.split())
    code = re.search(r"(?i)\bexit(?:ed with)?(?: code| status)?:? ?(?:code |is )*(137|143)\b", text)
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS] + "..."
    if killed is not None and killed.group(1) != "Error" and killed.group(1) not in text:
        text += f" ({killed.group(1)})"
    if code is not None and "SIG" not in text:
        text += f" ({code.group(1)}: {_OOM[code.group(1)]})"
    return text
