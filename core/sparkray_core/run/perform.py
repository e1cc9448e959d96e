"""Carrying out what the models wish: one short function per effect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from sparkray_core.ids import NodeId, ProcessId, node_of
from sparkray_core.messages import ObjectChunk
from sparkray_core.model.effects import (
    ConnectPeer,
    CopyChunk,
    DropSpilled,
    Effect,
    ForgetChunks,
    ForgetPeer,
    KillWorker,
    LookForSigns,
    MapPeer,
    PunchHole,
    RestoreObject,
    Send,
    SendChunk,
    SendFrom,
    SendSpilled,
    SpillObjects,
    StartWorker,
    Stop,
    WakeAt,
    WriteChunk,
)
from sparkray_core.run.lanes import Lanes
from sparkray_core.run.local_peers import LocalPeers
from sparkray_core.run.loop import Loop, Timer
from sparkray_core.run.neighbours import Neighbours
from sparkray_core.run.peers import Peers
from sparkray_core.run.spill_disk import SpillDisk
from sparkray_core.run.zygote_client import ZygoteClient
from sparkray_core.store.segment import Segment
from sparkray_core.wire import codec
from sparkray_core.wire.frames import Body

log = logging.getLogger(__name__)


class Performer:
    """What raylet and head have in common: messages, peers, time, the end."""

    def __init__(self, me: ProcessId, loop: Loop, timer: Timer, peers: Peers) -> None:
        """`timer` rings for the model alone."""
        self.stopped: str | None = None  # why the model wished for the end
        self.suspects: list[NodeId] = []  # signs of life are to be looked for of these
        self._me = me
        self._loop = loop
        self._timer = timer
        self._peers = peers
        self._by_type: dict[type[Any], Callable[[Any], None]] = {
            Send: self._send,
            SendFrom: self._send_from,
            WakeAt: self._wake_at,
            ConnectPeer: self._connect_peer,
            ForgetPeer: self._forget_peer,
            LookForSigns: self._look_for_signs,
            Stop: self._stop,
        }

    def __call__(self, effects: Iterable[Effect]) -> None:
        by_type = self._by_type
        for effect in effects:
            by_type[type(effect)](effect)

    def route(self, to: ProcessId, frame: Body) -> bool:
        """Pass a frame, envelope included, towards its receiver. False: there is no way to it any more."""
        return self._peers.send(node_of(to), frame if isinstance(frame, bytes) else b"".join(frame))

    def _send(self, effect: Send) -> None:
        self.route(effect.to, codec.wrap(effect.to, self._me, codec.encode(effect.message)))

    def _send_from(self, effect: SendFrom) -> None:
        self.route(effect.to, codec.wrap(effect.to, effect.sender, codec.encode(effect.message)))

    def _wake_at(self, effect: WakeAt) -> None:
        self._timer.wake_at(effect.at)

    def _connect_peer(self, effect: ConnectPeer) -> None:
        self._peers.connect(effect.node, effect.address)

    def _forget_peer(self, effect: ForgetPeer) -> None:
        self._peers.forget(effect.node)

    def _look_for_signs(self, effect: LookForSigns) -> None:
        self.suspects = effect.nodes

    def _stop(self, effect: Stop) -> None:
        log.info("stopping: %s", effect.why)
        self.stopped = effect.why
        self._loop.stop()


class NodePerformer(Performer):
    """The raylet's: workers, local processes and the segment as well."""

    def __init__(
        self,
        me: ProcessId,
        loop: Loop,
        timer: Timer,
        peers: Peers,
        local: LocalPeers,
        zygote: ZygoteClient,
        segment: Segment,
        spill_disk: SpillDisk,
        neighbours: Neighbours,
        lanes: Lanes,
    ) -> None:
        super().__init__(me, loop, timer, peers)
        self._node = node_of(me)
        self._local = local
        self._zygote = zygote
        self._segment = segment
        self._neighbours = neighbours
        self._lanes = lanes
        self._by_type |= {
            StartWorker: self._start_worker,
            KillWorker: self._kill_worker,
            SendChunk: self._send_chunk,
            WriteChunk: self._write_chunk,
            PunchHole: self._punch_hole,
            SpillObjects: spill_disk,
            RestoreObject: spill_disk,
            SendSpilled: spill_disk,
            DropSpilled: spill_disk,
            MapPeer: neighbours.map,
            CopyChunk: neighbours.copy,
            ForgetChunks: neighbours.forget_chunks,
        }

    def route(self, to: ProcessId, frame: Body) -> bool:
        if node_of(to) == self._node:
            return self._local.send(to, frame)
        return super().route(to, frame)

    def _forget_peer(self, effect: ForgetPeer) -> None:
        super()._forget_peer(effect)
        self._neighbours.forget(effect.node)
        self._lanes.forget(effect.node)

    def _start_worker(self, effect: StartWorker) -> None:
        log.debug("starting worker %s", effect.worker.hex())
        self._zygote.fork(effect.worker)

    def _kill_worker(self, effect: KillWorker) -> None:
        log.info("killing worker %s: %s", effect.worker.hex(), effect.why)
        self._zygote.kill(effect.worker)

    def _send_chunk(self, effect: SendChunk) -> None:
        data = bytes(self._segment.write_view(effect.offset + effect.first, effect.length))
        self.send_chunk(effect.to, ObjectChunk(effect.object, effect.first, effect.size, data))

    def send_chunk(self, to: ProcessId, chunk: ObjectChunk) -> None:
        """To another raylet, by its lane or by the link."""
        node = node_of(to)
        if not self._lanes.send(node, self._peers.address_of(node), chunk):
            self._send(Send(to, chunk))

    def _write_chunk(self, effect: WriteChunk) -> None:
        self._segment.write_view(effect.offset, len(effect.data))[:] = effect.data

    def _punch_hole(self, effect: PunchHole) -> None:
        self._segment.punch(effect.offset, effect.size)
