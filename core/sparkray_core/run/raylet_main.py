"""The raylet: the process that speaks for a node. It relays frames, and performs what the node's model decides."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import time

from sparkray_core.ids import HEAD, HEAD_NODE, RECORDS, NodeId, ProcessId, node_of, raylet_of
from sparkray_core.messages import (
    Answer,
    AskLane,
    EndSession,
    Inspect,
    LaneAt,
    Message,
    NodeGone,
    NodeSaid,
    ObjectChunk,
)
from sparkray_core.model.effects import Send
from sparkray_core.model.events import (
    ClockTicked,
    ConnectionLost,
    Event,
    LaneBroke,
    PeerLost,
    Received,
    Undelivered,
    WorkerExited,
)
from sparkray_core.model.node import Node
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.run import child, folders, node_inspection, processes
from sparkray_core.run.child import Parent
from sparkray_core.run.config import NodeConfig, ProcessTie
from sparkray_core.run.lanes import Lanes
from sparkray_core.run.limits import node_limits
from sparkray_core.run.local_peers import LocalPeers
from sparkray_core.run.loop import Loop
from sparkray_core.run.memory import MemoryMonitor, WatchedContainer
from sparkray_core.run.neighbours import Neighbours
from sparkray_core.run.obituaries import Words
from sparkray_core.run.output import last_words
from sparkray_core.run.peers import Peers
from sparkray_core.run.perform import NodePerformer
from sparkray_core.run.processes import Identity
from sparkray_core.run.spill_disk import SpillDisk
from sparkray_core.run.warmth import UNUSED_S, Warmth
from sparkray_core.run.zygote_client import ZygoteClient, ZygoteGone
from sparkray_core.store.allocator import Allocator
from sparkray_core.store.segment import Segment
from sparkray_core.wire import codec, hello
from sparkray_core.wire.zmq_probe import is_refused

ZYGOTE_END_S = 1.5  # the zygote ends its workers within 0.5 s; over that is who cannot be interrupted
PROBE_AFTER_S = 0.5  # without an answer from the head, which usually takes a few ms
PROBE_S = 0.5
EXIT_REPORT_S = 0.3  # from the end of a worker's connection to the zygote's report of its exit, on a busy machine

log = logging.getLogger(__name__)


def main(config: NodeConfig, zygote: socket.socket, zygote_is: Identity | None, parent: Parent, tell: int) -> None:
    """The raylet's life, right after the keeper forked it.

    Args:
        zygote: our end of the pair; closing it ends the zygote and all workers.
        zygote_is: to see whether it has ended, should the keeper not be there to do so.
        tell: where to write, once the node has joined, the line that the keeper waits for.
    """
    loop = Loop(pulse=parent.pulse)
    loop.catch({signal.SIGTERM: loop.stop})
    child.begin("raylet", config, parent.pid)
    gc.freeze()
    gc.enable()
    loop.watch(parent.lifeline, loop.stop)
    raylet = Raylet(config, loop, zygote, parent.pid, tell)
    try:
        raylet.run()
    finally:
        raylet.close()
        # Not asked by getppid: a dying process closes its pipes before its children get another parent.
        if select.select([parent.lifeline], [], [], 0)[0]:
            _clean_up(config, zygote_is)


def _clean_up(config: NodeConfig, zygote: Identity | None) -> None:
    """What the keeper, which was killed, would have done."""
    deadline = time.monotonic() + ZYGOTE_END_S
    while zygote is not None and processes.is_alive(zygote):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(zygote.pid, signal.SIGKILL)
        time.sleep(0.01)
    folders.remove_node_folder(config.folder, config.settings.keep_logs)


class Raylet:
    """The model and everything around it. Whatever happens ends in `_handle`."""

    def __init__(self, config: NodeConfig, loop: Loop, zygote: socket.socket, keeper: int, tell: int) -> None:
        self._loop = loop
        self._config = config
        self._node_id = config.node
        self._me = raylet_of(config.node)
        self._tell: int | None = tell
        self._words = Words()
        self._zygote = ZygoteClient(zygote)
        self._closed: dict[ProcessId, float] = {}  # workers that closed their connection: when that will be told
        self._closed_timer = loop.timer(self._on_closed_for_long)
        self._segment = Segment.create(config.store_bytes, config.folder)
        self._warmth = Warmth(self._segment, config.settings.object_store_warm_bytes)
        self._allocator = Allocator(config.store_bytes)
        self._cooling = loop.timer(self._cool)
        self._cooling.wake_at(loop.clock() + UNUSED_S)
        self._peers = Peers.open(config, config.node, loop, self._on_payloads, self._on_peer_lost)
        assert config.head_address is not None
        self._peers.connect(HEAD_NODE, config.head_address)
        info = NodeInfo(
            config.node,
            self._peers.address,
            config.host,
            keeper,
            config.all_resources,
            config.all_labels,
            config.store_bytes,
            config.folder,
            visits=config.visits,
        )
        limits = node_limits(config.settings, config.prestart)
        self._node = Node(info, config.session, self._allocator, limits)
        self._local = LocalPeers(
            loop,
            config.node,
            hello.listen(config.socket_path),
            config.token,
            self._segment.fileno(),
            self._on_frames,
            self._on_process_lost,
        )
        timer = loop.timer(self._on_clock)
        elsewhere = config.settings.object_spilling_directory
        self._spill_disk = SpillDisk(self._segment, config.folder, elsewhere, loop, self._on_disk)
        self._neighbours = Neighbours(self._segment, self._me, config.token, loop, self._handle)
        self._lanes = Lanes(
            config.node,
            config.curve_secret,
            config.bind_host,
            loop,
            ask=lambda node: self._perform([Send(raylet_of(node), AskLane())]),
            by_link=lambda node, chunk: self._perform([Send(raylet_of(node), chunk)]),
            on_chunk=lambda node, chunk: self._handle(Received(raylet_of(node), chunk)),
            on_broken=lambda node: self._handle(LaneBroke(node)),
        )
        self._perform = NodePerformer(
            self._me,
            loop,
            timer,
            self._peers,
            self._local,
            self._zygote,
            self._segment,
            self._spill_disk,
            self._neighbours,
            self._lanes,
        )
        self._memory = MemoryMonitor(loop, config.settings, self._node, self._handle, container=self._container())
        loop.watch(self._zygote.fileno(), self._on_zygote, self._zygote.flush)

    def _container(self) -> WatchedContainer | None:
        tie, first = self._config.tie, self._config.container_pid
        if not first and isinstance(tie, ProcessTie):
            first = tie.pid
        if not self._config.container_bytes or not first:
            return None
        store = self._node.store.allocator
        return WatchedContainer(self._config.container_bytes, (first, os.getppid()), lambda: store.used)

    def run(self) -> None:
        if not self._config.is_head:
            self._loop.timer(self._on_no_answer).wake_at(self._loop.clock() + PROBE_AFTER_S)
        logging.getLogger().addHandler(self._words)
        self._perform(self._node.start(self._loop.clock()))
        self._memory.start()
        self._loop.run(after=self._flush)
        if self._perform.stopped is None:  # the keeper ends the node; the session may go on without it
            self._perform([Send(HEAD, NodeGone(self._node_id, child.why_ended(self._config)))])
            if why := child.word_left(self._config.folder):
                self._perform([Send(process, EndSession(why)) for process in self._node.processes])
        if self._tell is not None:
            child.tell_keeper(self._tell, {"failed": self._perform.stopped or "it was told to end"})
        self._flush()

    def close(self) -> None:
        logging.getLogger().removeHandler(self._words)
        self._zygote.close()
        self._local.close()
        self._peers.close()
        self._spill_disk.close()
        self._neighbours.close()
        self._lanes.close()
        self._warmth.close()
        self._segment.close()

    def _handle(self, event: Event) -> None:
        self._perform(self._node.handle(event, self._loop.clock()))

    def _flush(self) -> None:
        if said := self._words.fetch():
            self._perform([Send(HEAD, NodeSaid(self._node_id, said))])
        self._local.flush()
        self._peers.flush()
        self._loop.want_write(self._zygote.fileno(), self._zygote.wants_write)

    # ------------------------------------------------------------------------------ what happens
    def _on_frames(self, sender: ProcessId, frames: list[bytes]) -> None:
        """From a process of this node. Raises `BadFrame`: what came before has been handled."""
        me = self._me
        for frame in frames:
            to = codec.addressed_to(frame)
            if codec.sent_by(frame) != sender:
                raise codec.BadFrame(f"process {sender.hex()} sent it in the name of another")
            if to == me:
                self._hear(sender, codec.decode_strictly(frame, codec.ENVELOPE_BYTES))
            else:
                self._deliver(sender, to, frame)

    def _hear(self, sender: ProcessId, message: Message) -> None:
        """Raises `BadFrame` when the model finds that it makes no sense: one peer's fault is not to end the node."""
        try:
            self._receive(sender, message)
        except codec.MALFORMED as error:
            log.exception("%s of process %s makes no sense", type(message).__name__, sender.hex())
            raise codec.BadFrame(f"{type(message).__name__} makes no sense: {error!r:.200}") from error

    def _deliver(self, sender: ProcessId, to: ProcessId, frame: bytes) -> None:
        if to == RECORDS:
            to = self._node.keeper_of(sender)
        if not self._perform.route(to, frame):
            self._handle(Undelivered(sender, to))

    def _on_payloads(self, node: NodeId, payloads: list[bytes]) -> None:
        """From another node or the head: each is a frame for this raylet or for a process of this node."""
        for frame in payloads:
            to = ProcessId(frame[:16])
            if to != self._me and node_of(to) == self._node_id:
                self._deliver(codec.sent_by(frame), to, frame)
            else:
                self._on_message(node, frame)

    def _on_message(self, node: NodeId, frame: bytes) -> None:
        try:
            to, sender, message = (
                codec.addressed_to(frame),
                codec.sent_by(frame),
                codec.decode_strictly(frame, codec.ENVELOPE_BYTES),
            )
        except codec.BadFrame as error:
            log.error("dropped, from node %s: %s", node.hex(), error)
            return
        if to != self._me:
            log.error("node %s sent %s for %s, which is not here", node.hex(), type(message).__name__, to.hex())
            return
        with contextlib.suppress(codec.BadFrame):  # logged already
            self._hear(sender, message)
        self._report_joining()

    def _receive(self, sender: ProcessId, message: Message) -> None:
        if isinstance(message, Inspect):  # files: not for the model
            found = node_inspection.answer(self._config, message.what, message.detail)
            self._perform([Send(sender, Answer(message.request, found))])
        elif isinstance(message, AskLane):
            self._perform([Send(sender, LaneAt(self._lanes.open()))])
        elif isinstance(message, LaneAt):
            self._lanes.learn(node_of(sender), message.port)
        else:
            self._handle(Received(sender, message))

    def _report_joining(self) -> None:
        if self._tell is not None and self._node_id in self._node.table:
            child.tell_keeper(self._tell, {"address": self._peers.address})
            self._tell = None

    def _on_no_answer(self) -> None:
        """Not joined yet. Either the head is not up, then we wait for it; or it does not take our key."""
        config = self._config
        if self._tell is None or config.curve_public is None or config.curve_secret is None:
            return
        assert config.head_address is not None
        if is_refused(config.head_address, (config.curve_public, config.curve_secret), PROBE_S):
            why = f"the head at {config.head_address} refused it: its key is of another session"
            child.tell_keeper(self._tell, {"failed": why, "refused": True})
            self._tell = None
            self._loop.stop()

    def _on_peer_lost(self, node: NodeId, why: str) -> None:
        self._handle(PeerLost(node, why))

    def _on_process_lost(self, process: ProcessId) -> None:
        """At once; but of a worker the zygote knows more, and says so in a moment: how it ended."""
        if process in self._zygote.workers:
            self._closed[process] = self._loop.clock() + EXIT_REPORT_S
            self._closed_timer.wake_at(self._closed[process])
        else:
            self._handle(ConnectionLost(process))

    def _on_closed_for_long(self) -> None:
        now = self._loop.clock()
        for process, until in list(self._closed.items()):
            if until <= now:
                del self._closed[process]
                self._handle(ConnectionLost(process))
            else:
                self._closed_timer.wake_at(until)

    def _on_zygote(self) -> None:
        try:
            for exited in self._zygote.receive():
                log.info("worker %s: %s", exited.worker.hex(), exited.why)
                self._local.end(exited.worker)  # what it sent came before its end
                self._closed.pop(exited.worker, None)
                self._zygote.workers.discard(exited.worker)
                words = last_words(self._config.log_path(f"worker-{exited.worker[8:].hex()}"))
                why = f"{exited.why}; the end of its stderr:\n{words}\n" if words else exited.why
                killed = exited.why == "killed by SIGKILL" and self._memory.system_has_killed()
                if killed:
                    why += f"; the system ended it, because memory ran out ({self._memory.in_words()})"
                self._handle(WorkerExited(exited.worker, why, killed))
        except ZygoteGone:
            log.error("the zygote is gone, and all workers with it")
            self._loop.stop()

    def _on_disk(self, done: Event | Send) -> None:
        if isinstance(done, Send) and isinstance(done.message, ObjectChunk):
            self._perform.send_chunk(done.to, done.message)
        elif isinstance(done, Send):
            self._perform([done])
        else:
            self._handle(done)

    def _cool(self) -> None:
        if self._warmth.give_back(self._allocator):
            self._cooling.wake_at(self._loop.clock() + 0.01)

    def _on_clock(self) -> None:
        self._handle(ClockTicked())
