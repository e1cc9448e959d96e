"""The master process: the head's model, and the links to all nodes. No user code and no local process reaches it.

It may die: its keeper forks another, which goes on where it was (see `journal`). To the nodes that is a pause.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable
from math import inf

from sparkray_core.ids import HEAD, HEAD_NODE, NodeId, node_of, raylet_of
from sparkray_core.messages import EndSession, NodeGone
from sparkray_core.model.events import ClockTicked, Event, PeerLost, PeersHeard, Received
from sparkray_core.model.head import Head
from sparkray_core.run import child
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.journal import Fact, Found, HeldTransport, Journal
from sparkray_core.run.keeping import NOTHING_TO_GO_ON_FROM
from sparkray_core.run.limits import head_limits
from sparkray_core.run.loop import Loop
from sparkray_core.run.peers import Peers, open_transport
from sparkray_core.run.perform import Performer
from sparkray_core.run.tables import SqliteTables, Tables, TablesBroken
from sparkray_core.wire import codec
from sparkray_core.wire.transport import Transport
from sparkray_core.wire.zmq_transport import CannotListen

LAST_WORDS_S = 0.5  # for the links to deliver the end of the session; below the keeper's grace
_SEED_BYTES = 16

# Facts that are noted here; the others are `peers`'.
BEGAN, RESUMED, HEARD, HAPPENED = "began", "resumed", "heard", "happened"

log = logging.getLogger(__name__)


def main(config: NodeConfig, lifeline: int, keeper: int, tell: int | None) -> None:
    """A life of the head, right after the keeper forked it.

    Args:
        lifeline: a pipe that the keeper holds open.
        tell: where to write, once the port is bound, the line that the keeper waits for. None: this is not the first
            life; it goes on where the one before was.
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
        found = _what_is_left(journal)
        log.warning("going on with the session of the head before: %d turns to replay", len(found.turns))
    master.append(Master(config, loop, transport, address, journal, found))
    master[0].run()
    master[0].close()  # not if that raised: what the turn did is not written down, so nobody may hear of it


def tables_of(config: NodeConfig) -> Callable[[], Tables]:
    """What opens the tables of this head, in each of its lives."""
    url = config.settings.gcs_storage
    if url is None:
        return lambda: SqliteTables(os.path.join(config.folder, "gcs.sqlite"))
    from sparkray_core.run.redis_tables import RedisTables

    return lambda: RedisTables(url, config.session, config.folder)


def _what_is_left(journal: Journal) -> Found:
    try:
        found = journal.load()
    except (TablesBroken, pickle.UnpicklingError) as error:
        log.error("%s", error)
        found = None
    if found is None:
        log.error("the head before left nothing to go on from")
        sys.exit(NOTHING_TO_GO_ON_FROM)
    return found


class Master:
    """The model and everything around it. Whatever happens is noted in the journal, and ends in `_handle`."""

    def __init__(
        self,
        config: NodeConfig,
        loop: Loop,
        transport: Transport,
        address: str,
        journal: Journal,
        found: Found | None = None,
    ) -> None:
        """
        Args:
            address: the transport's, as others reach it.
            found: in the journal, by a life after the first.
        """
        self._loop = loop
        self._journal = journal
        self._held = HeldTransport(transport)
        self._found = found
        seed = found.seed if found is not None else os.urandom(_SEED_BYTES)
        if found is None:
            journal.begin(seed)
        self._head = Head(config.session, head_limits(config.settings), lives_for=config.lives_for)
        self._peers = Peers(
            loop,
            self._held,
            address,
            self._on_payloads,
            self._on_peer_lost,
            config.settings,
            journal.note,
            seed,
        )
        self._timer = loop.timer(self._on_clock)
        self._perform = Performer(HEAD, loop, self._timer, self._peers)
        self._deadline = loop.timer(loop.stop)

    def run(self) -> None:
        self.begin()
        self._loop.run(after=self.flush)

    def begin(self) -> None:
        now = self._loop.clock()
        if self._found is None:
            self._journal.note((BEGAN, now))
            self._perform(self._head.start(now))
        else:
            self._replay(self._found)
            self._found = None
            self._perform.suspects.clear()  # the life before has looked
            self._timer.at = inf  # what the model asked of a life before: it would ring too early, for nobody
            self._journal.note((RESUMED, now))
            self._perform(self._head.resume(now))
            self._peers.resume()

    def end_session(self, why: str) -> None:
        """As if a node had asked for it: the model listens to nodes only. The loop stops once all nodes have heard."""
        asking = next(self._head.nodes.alive(), None)
        if asking is None:
            self._loop.stop()
        else:
            self._deadline.wake_at(self._loop.clock() + LAST_WORDS_S)
            self._happened(Received(raylet_of(asking.info.node), EndSession(why)))

    def close(self) -> None:
        """The session has ended."""
        self._peers.close(self.flush)
        self._journal.end()

    def flush(self) -> None:
        """The turn's end: what it sends leaves when what it was told is written down."""
        if self._perform.suspects:
            suspects, self._perform.suspects = self._perform.suspects, []
            self._happened(PeersHeard({node: self._peers.silence(node) for node in suspects}))
        self._peers.flush()
        self._journal.commit(self._state, self._under_way)
        self._held.release()
        if self._head.ended is not None and not self._peers.unacknowledged:
            self._loop.stop()  # all have heard of it: sooner than the model, which sees no links, dares to

    # ------------------------------------------------------------------------------ what happens
    def _on_payloads(self, node: NodeId, payloads: list[bytes]) -> None:
        now = self._loop.clock()
        self._journal.note((HEARD, now, node, payloads, self._peers.acknowledged(node)))
        self._hear(node, payloads, now)

    def _hear(self, node: NodeId, payloads: list[bytes], now: float) -> None:
        for frame in payloads:
            try:
                sender, message = codec.sent_by(frame), codec.decode_strictly(frame, codec.ENVELOPE_BYTES)
            except codec.BadFrame as error:
                log.error("dropped, from node %s: %s", node.hex(), error)
                continue
            try:
                if isinstance(message, NodeGone) and message.node == node_of(sender):  # it takes its leave
                    self._handle(PeerLost(message.node, message.why), now)
                else:
                    self._handle(Received(sender, message), now)
            except codec.MALFORMED:
                log.exception("dropped, from process %s: %s makes no sense", sender.hex(), type(message).__name__)

    def _on_peer_lost(self, node: NodeId, why: str) -> None:
        self._happened(PeerLost(node, why))

    def _on_clock(self) -> None:
        self._happened(ClockTicked())

    def _happened(self, event: Event) -> None:
        now = self._loop.clock()
        self._journal.note((HAPPENED, now, event))
        self._handle(event, now)

    def _handle(self, event: Event, now: float) -> None:
        self._perform(self._head.handle(event, now))

    # ------------------------------------------------------------------------------ from one life to the next
    def _under_way(self) -> int:
        return self._peers.unacknowledged_bytes

    def _state(self) -> bytes:
        return pickle.dumps((self._head, self._peers.saved()), 5)

    def _replay(self, found: Found) -> None:
        saved = None
        if found.snapshot:
            self._head, saved = pickle.loads(found.snapshot)
        self._peers.begin_replay(saved)
        for turn in found.turns:
            for fact in turn:
                self._replay_fact(fact)
            self._peers.flush()

    def _replay_fact(self, fact: Fact) -> None:
        kind = fact[0]
        if kind == HEARD:
            _, now, node, payloads, acknowledged = fact
            self._peers.replay_received(node, len(payloads), acknowledged)
            self._hear(node, payloads, now)
        elif kind == HAPPENED:
            self._handle(fact[2], fact[1])
        elif kind == BEGAN:
            self._perform(self._head.start(fact[1]))
        elif kind == RESUMED:
            self._perform(self._head.resume(fact[1]))
        else:
            self._peers.replay(fact)
