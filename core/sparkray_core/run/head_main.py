"""The master process: the head's model, and the links to all nodes. No user code and no local process reaches it."""

from __future__ import annotations

import gc
import logging
import signal

from sparkray_core.ids import HEAD, HEAD_NODE, NodeId, node_of, raylet_of
from sparkray_core.messages import EndSession, NodeGone
from sparkray_core.model.events import ClockTicked, Event, PeerLost, Received
from sparkray_core.model.head import Head
from sparkray_core.run import child
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.limits import head_limits
from sparkray_core.run.loop import Loop
from sparkray_core.run.peers import Peers
from sparkray_core.run.perform import Performer
from sparkray_core.wire import codec
from sparkray_core.wire.zmq_transport import CannotListen

LAST_WORDS_S = 0.5  # for the links to deliver the end of the session; below the keeper's grace

log = logging.getLogger(__name__)


def main(config: NodeConfig, lifeline: int, keeper: int, tell: int) -> None:
    """The head's life, right after the keeper forked it.

    Args:
        lifeline: a pipe that the keeper holds open.
        tell: where to write, once the port is bound, the line that the keeper waits for.
    """
    loop = Loop()
    master: list[Master] = []

    def end() -> None:
        if master:
            master[0].end_session(f"the head was on node {config.node.hex()}: {child.why_ended(config)}")
        else:
            loop.stop()

    loop.catch({signal.SIGTERM: end})
    child.begin("head", config, keeper)
    gc.freeze()
    gc.enable()
    loop.watch(lifeline, end)
    try:
        master.append(Master(config, loop))
    except CannotListen as error:
        child.tell_keeper(tell, {"failed": str(error)})
        return
    child.tell_keeper(tell, {"address": master[0].address})
    try:
        master[0].run()
    finally:
        master[0].close()


class Master:
    """The model and everything around it. Whatever happens ends in `_handle`."""

    def __init__(self, config: NodeConfig, loop: Loop) -> None:
        self._loop = loop
        self._head = Head(config.session, head_limits(config.settings), lives_for=config.lives_for)
        self._peers = Peers.open(config, HEAD_NODE, loop, self._on_payloads, self._on_peer_lost)
        self._perform = Performer(HEAD, loop, loop.timer(self._on_clock), self._peers)
        self._deadline = loop.timer(loop.stop)
        self.address = self._peers.address

    def run(self) -> None:
        self._perform(self._head.start(self._loop.clock()))
        self._loop.run(after=self._flush)

    def end_session(self, why: str) -> None:
        """As if a node had asked for it: the model listens to nodes only. The loop stops once all nodes have heard."""
        asking = next(self._head.nodes.alive(), None)
        if asking is None:
            self._loop.stop()
        else:
            self._deadline.wake_at(self._loop.clock() + LAST_WORDS_S)
            self._handle(Received(raylet_of(asking.info.node), EndSession(why)))

    def close(self) -> None:
        self._peers.close()

    def _handle(self, event: Event) -> None:
        self._perform(self._head.handle(event, self._loop.clock()))

    def _flush(self) -> None:
        self._peers.flush()
        if self._head.ended is not None and not self._peers.unacknowledged:
            self._loop.stop()  # all have heard of it: sooner than the model, which sees no links, dares to

    # ------------------------------------------------------------------------------ what happens
    def _on_payloads(self, node: NodeId, payloads: list[bytes]) -> None:
        for frame in payloads:
            self._on_message(node, frame)

    def _on_message(self, node: NodeId, frame: bytes) -> None:
        try:
            sender, message = codec.sent_by(frame), codec.decode_strictly(frame, codec.ENVELOPE_BYTES)
        except codec.BadFrame as error:
            log.error("dropped, from node %s: %s", node.hex(), error)
            return
        try:
            if isinstance(message, NodeGone) and message.node == node_of(sender):  # it takes its leave
                self._handle(PeerLost(message.node, message.why))
            else:
                self._handle(Received(sender, message))
        except codec.MALFORMED:
            log.exception("dropped, from process %s: %s makes no sense", sender.hex(), type(message).__name__)

    def _on_peer_lost(self, node: NodeId, why: str) -> None:
        self._handle(PeerLost(node, why))

    def _on_clock(self) -> None:
        self._handle(ClockTicked())
