"""The master process: the head's model, and the links to all nodes. No user code and no local process reaches it.

It may die: its keeper forks another, which goes on where it was (see `journal`). To the nodes that is a pause.
"""

from __future__ import annotations

import gc
import signal

from sparkray_core.ids import HEAD, HEAD_NODE, ProcessId, node_of, raylet_of
from sparkray_core.messages import EndSession, Message, NodeGone
from sparkray_core.model.events import Event, PeerLost, Received
from sparkray_core.model.head import Head
from sparkray_core.run import child
from sparkray_core.run.child import Parent
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.journal import Found, Journal
from sparkray_core.run.journalled import Journalled, tables_of, what_is_left
from sparkray_core.run.limits import head_limits
from sparkray_core.run.loop import Loop
from sparkray_core.run.peers import open_transport
from sparkray_core.run.tables import TablesBroken
from sparkray_core.wire.transport import Transport
from sparkray_core.wire.zmq_transport import CannotListen

LAST_WORDS_S = 0.5  # for the links to deliver the end of the session; below the keeper's grace


def main(config: NodeConfig, parent: Parent, tell: int | None) -> None:
    """A life of the head, right after the keeper forked it.

    Args:
        tell: where to write, once the port is bound, the line that the keeper waits for. None: this is not the first
            life; it goes on where the one before was.
    """
    loop = Loop(pulse=parent.pulse)
    master: list[Master] = []

    def end() -> None:
        if master:
            master[0].end_session(f"the head was on node {config.node.hex()}: {child.why_ended(config)}")
        else:
            loop.stop()

    loop.catch({signal.SIGTERM: end})
    child.begin("head", config, parent.pid)
    gc.freeze()
    gc.enable()
    loop.watch(parent.lifeline, end)
    try:
        transport, address = open_transport(config, HEAD_NODE)
    except CannotListen as error:
        if tell is None:
            raise
        child.tell_keeper(tell, {"failed": str(error)})
        return
    open_tables = tables_of(config)
    if tell is not None:
        if config.settings.gcs_storage is not None:
            try:  # who asks for a server is to know at once that it cannot be used
                open_tables().close()
            except TablesBroken as error:
                child.tell_keeper(tell, {"failed": str(error)})
                return
        child.tell_keeper(tell, {"address": address})
    journal = Journal(open_tables)
    found = None
    if tell is None:
        found = what_is_left(journal)
    master.append(Master(config, loop, transport, address, journal, found))
    master[0].run()
    master[0].close()  # not if that raised: what the turn did is not written down, so nobody may hear of it


class Master(Journalled[Head]):
    """The head's process."""

    def __init__(
        self,
        config: NodeConfig,
        loop: Loop,
        transport: Transport,
        address: str,
        journal: Journal,
        found: Found | None = None,
    ) -> None:
        head = Head(config.session, head_limits(config.settings), lives_for=config.lives_for)
        super().__init__(HEAD, head, config.settings, loop, transport, address, journal, found)
        self._deadline = loop.timer(loop.stop)

    @property
    def _head(self) -> Head:
        return self._model

    def end_session(self, why: str) -> None:
        """As if a node had asked for it: the model listens to nodes only. The loop stops once all nodes have heard."""
        asking = next(self._head.nodes.alive(), None)
        if asking is None:
            self._loop.stop()
        else:
            self._deadline.wake_at(self._loop.clock() + LAST_WORDS_S)
            self._happened(Received(raylet_of(asking.info.node), EndSession(why)))

    def flush(self) -> None:
        super().flush()
        if self._head.ended is not None and not self._peers.unacknowledged:
            self._loop.stop()  # all have heard of it: sooner than the model, which sees no links, dares to

    def _event_of(self, sender: ProcessId, message: Message) -> Event:
        if isinstance(message, NodeGone) and message.node == node_of(sender):  # it takes its leave
            return PeerLost(message.node, message.why)
        return Received(sender, message)
