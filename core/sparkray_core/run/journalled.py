"""A process that may die, because another goes on where it was: head and shards. What it is told is in its journal.

Nothing that follows from it leaves before it is written down: neither what the model wishes, nor the links' word that
they have it. (See `journal`.)
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable
from math import inf
from typing import Generic, Protocol, TypeVar

from sparkray_core.ids import NodeId, ProcessId
from sparkray_core.messages import Message
from sparkray_core.model.effects import Effect
from sparkray_core.model.events import ClockTicked, Event, PeerLost, PeersHeard, Received
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.journal import Fact, Found, HeldTransport, Journal
from sparkray_core.run.keeping import NOTHING_TO_GO_ON_FROM
from sparkray_core.run.loop import Loop
from sparkray_core.run.peers import Peers
from sparkray_core.run.perform import Performer
from sparkray_core.run.tables import SqliteTables, Tables, TablesBroken
from sparkray_core.settings import Settings
from sparkray_core.wire import codec
from sparkray_core.wire.transport import Transport

_SEED_BYTES = 16

# Facts that are noted here; the others are `peers`'.
BEGAN, RESUMED, HEARD, HAPPENED = "began", "resumed", "heard", "happened"

log = logging.getLogger(__name__)


class Model(Protocol):
    """It can be pickled between two events, and the same events bring two of them to the same state."""

    ended: str | None

    def start(self, now: float) -> list[Effect]: ...

    def resume(self, now: float) -> list[Effect]: ...

    def handle(self, event: Event, now: float) -> list[Effect]: ...


def tables_of(config: NodeConfig, name: str = "gcs") -> Callable[[], Tables]:
    """What opens the tables of the process of this name, in each of its lives."""
    url = config.settings.gcs_storage
    if url is None:
        return lambda: SqliteTables(os.path.join(config.folder, f"{name}.sqlite"))
    from sparkray_core.run.redis_tables import RedisTables

    return lambda: RedisTables(url, config.session, config.folder, name)


def what_is_left(journal: Journal) -> Found:
    """By the lives before. Without that, the process ends."""
    try:
        found = journal.load()
    except (TablesBroken, pickle.UnpicklingError) as error:
        log.error("%s", error)
        found = None
    if found is None:
        log.error("the process before left nothing to go on from")
        sys.exit(NOTHING_TO_GO_ON_FROM)
    log.warning("going on with the session of the process before: %d turns to replay", len(found.turns))
    return found


M = TypeVar("M", bound=Model)


class Journalled(Generic[M]):
    """A model and everything around it. Whatever happens is noted in the journal, and ends in `_handle`."""

    def __init__(
        self,
        me: ProcessId,
        model: M,
        settings: Settings,
        loop: Loop,
        transport: Transport,
        address: str,
        journal: Journal,
        found: Found | None = None,
    ) -> None:
        """
        Args:
            model: as it is before it was told anything.
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
        self._model = model
        self._peers = Peers(
            loop, self._held, address, self._on_payloads, self._on_peer_lost, settings, journal.note, seed
        )
        self._timer = loop.timer(self._on_clock)
        self._perform = Performer(me, loop, self._timer, self._peers)

    def run(self) -> None:
        self.begin()
        self._loop.run(after=self.flush)

    def begin(self) -> None:
        now = self._loop.clock()
        if self._found is None or not (self._found.snapshot or self._found.turns):
            self._found = None  # the life before had not come to its first turn's end: nobody has heard of it
            self._journal.note((BEGAN, now))
            self._perform(self._model.start(now))
        else:
            self._replay(self._found)
            self._found = None
            self._perform.suspects.clear()  # the life before has looked
            self._timer.at = inf  # what the model asked of a life before: it would ring too early, for nobody
            self._journal.note((RESUMED, now))
            self._perform(self._model.resume(now))
            self._peers.resume()

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
                self._handle(self._event_of(sender, message), now)
            except codec.MALFORMED:
                log.exception("dropped, from process %s: %s makes no sense", sender.hex(), type(message).__name__)

    def _event_of(self, sender: ProcessId, message: Message) -> Event:
        return Received(sender, message)

    def _on_peer_lost(self, node: NodeId, why: str) -> None:
        self._happened(PeerLost(node, why))

    def _on_clock(self) -> None:
        self._happened(ClockTicked())

    def _happened(self, event: Event) -> None:
        now = self._loop.clock()
        self._journal.note((HAPPENED, now, event))
        self._handle(event, now)

    def _handle(self, event: Event, now: float) -> None:
        self._perform(self._model.handle(event, now))

    # ------------------------------------------------------------------------------ from one life to the next
    def _under_way(self) -> int:
        return self._peers.unacknowledged_bytes

    def _state(self) -> bytes:
        return pickle.dumps((self._model, self._peers.saved()), 5)

    def _replay(self, found: Found) -> None:
        saved = None
        if found.snapshot:
            self._model, saved = pickle.loads(found.snapshot)
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
            self._perform(self._model.start(fact[1]))
        elif kind == RESUMED:
            self._perform(self._model.resume(fact[1]))
        else:
            self._peers.replay(fact)
