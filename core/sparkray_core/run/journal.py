"""What the head is told, written down before anything that follows from it leaves the process.

The head and its ends of the links are state machines without dice: the same facts in the same order bring them to the
same state, and make them send the same. So what is kept are the facts, one row for each turn of the loop, and now and
then a pickle of all, which takes the place of the rows before it. A head that was killed is brought to where it was;
what had left its process it had committed before, and of what it had not committed nobody had heard.

    turn: facts -> model -> frames -> packets, held back -> `commit` -> packets leave
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparkray_core.ids import NodeId
from sparkray_core.run.tables import JOURNAL, LIFE, SNAPSHOT, Row, Tables, TablesBroken
from sparkray_core.wire.transport import Transport

REPLAY_S = 0.2  # of the head's work since the last snapshot: about as long takes its replay
SNAPSHOT_SHARE = 3  # a snapshot is not taken before so many times its own cost of work was done
SNAPSHOT_BYTES = 16 << 20  # of rows since the last one; or
SNAPSHOT_FACTOR = 4  # so many times its size
UNDER_WAY_BYTES = 4 << 20  # of packets not acknowledged, which a snapshot would hold: a table for each of 1,000 nodes
LATEST = 10  # it waits for these until it is so many times overdue
PART_BYTES = 8 << 20  # of one row of a snapshot
RETRY_S = 5.0  # after which tables that could not be written are tried again

Fact = tuple[Any, ...]  # its kind, and what the replay needs to know of it

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What a life before left."""

    seed: bytes
    snapshot: bytes  # empty: none was taken
    turns: list[list[Fact]]  # after it


class Journal:
    """`load`, then `note` whatever happens and `commit` at the end of each turn."""

    def __init__(self, open_tables: Callable[[], Tables], clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            open_tables: raises `TablesBroken`. Called again when what it gave could not be written.
        """
        self._open = open_tables
        self._clock = clock
        self._tables: Tables | None = None
        self._seed = b""
        self._facts: list[Fact] = []  # of this turn
        self._turn_began = 0.0
        self._turn = 1
        self._part = 0  # rows of snapshots so far
        self._work_s = 0.0  # since the last snapshot, as `_bytes`
        self._bytes = 0
        self._snapshot_s = 0.0  # what the last one took
        self._snapshot_bytes = 0
        self._retry_at = 0.0

    # ------------------------------------------------------------------ beginning
    def begin(self, seed: bytes) -> None:
        """The first life: it has nothing to go on from.

        Args:
            seed: from which everything random follows.
        """
        self._seed = seed
        try:
            self._tables = self._open()
            self._tables.commit([(LIFE, 0, seed)])
        except (TablesBroken, ImportError) as error:
            self._broken(error)

    def load(self) -> Found | None:
        """What the lives before left; None: nothing that one could go on from. Raises `TablesBroken`."""
        self._tables = self._open()
        lives = self._tables.load(LIFE)
        if not lives:
            return None
        self._seed = lives[0][1]
        parts = self._tables.load(SNAPSHOT)
        rows = self._tables.load(JOURNAL)
        self._part = parts[-1][0] + 1 if parts else 0
        self._turn = rows[-1][0] + 1 if rows else 1
        self._bytes = sum(len(value) for _, value in rows)
        return Found(self._seed, b"".join(value for _, value in parts), [pickle.loads(value) for _, value in rows])

    # ------------------------------------------------------------------ turns
    def note(self, fact: Fact) -> None:
        """It is about to be handled."""
        if not self._facts:
            self._turn_began = self._clock()
        self._facts.append(fact)

    def commit(self, state: Callable[[], bytes], under_way: Callable[[], int] = lambda: 0) -> None:
        """The turn is over. Nothing that came of it may leave before this returns.

        Args:
            state: everything, now; asked for when a snapshot is due.
            under_way: how many bytes of that are packets which will be acknowledged soon.
        """
        if not self._facts:
            return
        now = self._clock()
        self._work_s += now - self._turn_began
        if self._tables is None:
            self._facts.clear()
            if now >= self._retry_at:
                self._begin_anew(state)
            return
        row = pickle.dumps(self._facts, 5)
        self._facts.clear()
        self._bytes += len(row)
        try:
            if self._is_snapshot_due(1) and (under_way() <= UNDER_WAY_BYTES or self._is_snapshot_due(LATEST)):
                self._take_snapshot(self._tables, state, now)
            else:
                self._tables.commit([(JOURNAL, self._turn, row)])
        except TablesBroken as error:
            self._broken(error)
        self._turn += 1

    def close(self) -> None:
        """Another may go on from what was committed."""
        if self._tables is not None:
            self._tables.close()

    def end(self) -> None:
        """The session has ended: nothing is left for anyone."""
        if self._tables is not None:
            self._tables.destroy()
            self._tables = None

    # ------------------------------------------------------------------ snapshots
    def _is_snapshot_due(self, times: int) -> bool:
        work_s = max(REPLAY_S, SNAPSHOT_SHARE * self._snapshot_s)
        size = max(SNAPSHOT_BYTES, SNAPSHOT_FACTOR * self._snapshot_bytes)
        return self._work_s >= times * work_s or self._bytes >= times * size

    def _take_snapshot(self, tables: Tables, state: Callable[[], bytes], now: float) -> None:
        whole = state()
        first = self._part
        rows: list[Row] = [(LIFE, 0, self._seed)]
        for begin in range(0, len(whole), PART_BYTES):
            rows.append((SNAPSHOT, self._part, whole[begin : begin + PART_BYTES]))
            self._part += 1
        tables.commit(rows, {SNAPSHOT: first, JOURNAL: self._turn + 1})
        self._snapshot_s, self._snapshot_bytes = self._clock() - now, len(whole)
        self._work_s, self._bytes = 0.0, 0
        log.debug("snapshot of %d bytes in %.1f ms", len(whole), 1000 * self._snapshot_s)

    # ------------------------------------------------------------------ when it cannot be written
    def _broken(self, error: Exception) -> None:
        """The session goes on; but what is there of the journal is no state to go on from any more."""
        log.warning(
            "%s. The session goes on; until they can be written again, it ends if the head's process dies", error
        )
        if self._tables is not None:
            self._tables.destroy()
            self._tables = None
        self._facts.clear()
        self._retry_at = self._clock() + RETRY_S

    def _begin_anew(self, state: Callable[[], bytes]) -> None:
        try:
            self._tables = self._open()
            self._take_snapshot(self._tables, state, self._clock())
        except (TablesBroken, ImportError) as error:
            self._broken(error)
        else:
            log.warning("the GCS's tables are written again")
        self._turn += 1


class HeldTransport:
    """A transport whose packets leave with `release`: when what they follow from has been written down."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._held: list[tuple[NodeId, bytes | None]] = []  # None: disconnect

    @property
    def address(self) -> str:
        return self._transport.address

    def connect(self, peer: NodeId, address: str) -> None:
        self._transport.connect(peer, address)

    def disconnect(self, peer: NodeId) -> None:
        """After what was sent there before."""
        self._held.append((peer, None))

    def send(self, peer: NodeId, packet: bytes) -> bool:
        self._held.append((peer, packet))
        return True

    def release(self) -> None:
        held, self._held = self._held, []
        for peer, packet in held:
            if packet is None:
                self._transport.disconnect(peer)
            else:
                self._transport.send(peer, packet)

    def receive(self) -> list[tuple[NodeId, bytes]]:
        return self._transport.receive()

    def lost(self) -> list[NodeId]:
        return self._transport.lost()

    def pending(self) -> bool:
        return self._transport.pending()

    def fileno(self) -> int:
        return self._transport.fileno()

    def close(self) -> None:
        """What is held is dropped."""
        self._transport.close()
