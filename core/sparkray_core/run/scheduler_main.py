"""A global scheduler beside the head: its model, and the links to the head and to all nodes."""

from __future__ import annotations

import gc
import logging
import signal
import sys

from sparkray_core.ids import HEAD, HEAD_NODE, NodeId, new_scheduler_id, raylet_of
from sparkray_core.messages import NodeGone
from sparkray_core.model.effects import Send
from sparkray_core.model.events import ClockTicked, Event, PeerLost, Received
from sparkray_core.model.scheduler import Scheduler
from sparkray_core.run import child
from sparkray_core.run.child import Parent
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.limits import head_limits
from sparkray_core.run.loop import Loop
from sparkray_core.run.peers import Peers
from sparkray_core.run.perform import Performer
from sparkray_core.wire import codec

GIVEN_UP = 4  # exit code of one that the head, or the way to it, is lost to: another may do better

log = logging.getLogger(__name__)


def main(config: NodeConfig, parent: Parent) -> None:
    """A scheduler's life, right after the keeper forked it."""
    loop = Loop(pulse=parent.pulse)
    loop.catch({signal.SIGTERM: loop.stop})
    child.begin("scheduler", config, parent.pid)
    gc.freeze()
    gc.enable()
    loop.watch(parent.lifeline, loop.stop)
    shell = SchedulerShell(config, loop)
    try:
        shell.run()
    finally:
        shell.close()
    if shell.given_up:
        sys.exit(GIVEN_UP)


class SchedulerShell:
    """The model and everything around it. Whatever happens ends in `_handle`."""

    def __init__(self, config: NodeConfig, loop: Loop) -> None:
        self._loop = loop
        self._node = new_scheduler_id()
        self._peers = Peers.open(config, self._node, loop, self._on_payloads, self._on_peer_lost)
        assert config.head_address is not None
        self._peers.connect(HEAD_NODE, config.head_address)
        self._model = Scheduler(self._node, self._peers.address, head_limits(config.settings))
        me = raylet_of(self._node)
        self._perform = Performer(me, loop, loop.timer(self._on_clock), self._peers)

    @property
    def given_up(self) -> bool:
        return self._model.ended is not None and not self._model.session_ended

    def run(self) -> None:
        self._perform(self._model.start(self._loop.clock()))
        self._loop.run(after=self._peers.flush)
        if self._model.ended is None:  # its keeper ends it
            self._perform([Send(HEAD, NodeGone(self._node, "its keeper ended it"))])
        self._peers.flush()

    def close(self) -> None:
        self._peers.close()

    def _handle(self, event: Event) -> None:
        self._perform(self._model.handle(event, self._loop.clock()))

    def _on_payloads(self, node: NodeId, payloads: list[bytes]) -> None:
        for frame in payloads:
            try:
                sender, message = codec.sent_by(frame), codec.decode_strictly(frame, codec.ENVELOPE_BYTES)
            except codec.BadFrame as error:
                log.error("dropped, from node %s: %s", node.hex(), error)
                continue
            try:
                self._handle(Received(sender, message))
            except codec.MALFORMED:
                log.exception("dropped, from process %s: %s makes no sense", sender.hex(), type(message).__name__)

    def _on_peer_lost(self, node: NodeId, why: str) -> None:
        self._handle(PeerLost(node, why))

    def _on_clock(self) -> None:
        self._handle(ClockTicked())
