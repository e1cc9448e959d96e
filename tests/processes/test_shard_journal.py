"""A shard of the GCS is killed at every write, before and after it: no record is lost, and nothing happens twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sparkray_core.ids import HEAD, HEAD_NODE, FunctionId, NodeId, ProcessId, object_id, raylet_of, shard_node, task_id
from sparkray_core.messages import (
    HOLDS,
    STORED,
    AddBorrowers,
    CloseNode,
    DropBorrowers,
    EstateClosed,
    ForgetRecords,
    JoinShard,
    Message,
    NodeClosed,
    NodeTable,
    ProcessGone,
    RecordedTask,
    RecordObjects,
    Value,
)
from sparkray_core.run import journal as journals
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.journal import Journal
from sparkray_core.run.peers import Peers
from sparkray_core.run.shard_main import ShardShell
from sparkray_core.run.tables import MemoryTables
from sparkray_core.settings import Settings
from sparkray_core.testing.builders import node_id, node_info, process_id
from sparkray_core.wire import codec
from sparkray_core.wire.memory_transport import MemoryNetwork, MemoryTransport
from tests.processes.test_journal import DeadlyTables, Killed, ring
from tests.processes.test_peers import HandLoop

A, B = node_id("a"), node_id("b")
DRIVER, FIRST, SECOND = process_id(A, "driver"), process_id(A, "first"), process_id(B, "second")
SHARD = shard_node(0)
CONFIG = NodeConfig(
    session="s",
    node=A,
    token=bytes(32),
    is_head=True,
    head_address="memory://the-head",
    resources={},
    store_bytes=1,
    base_folder="/nowhere",
    settings=Settings(node_timeout_s=60, gcs_shards=2),
)
FUNCTION = (FunctionId(b"f" * 16), "f", b"pickle")


class Peer:
    """The head, or a raylet."""

    def __init__(self, network: MemoryNetwork, node: NodeId, address: str) -> None:
        self.node, self.got = node, list[Message]()
        self.loop = HandLoop()
        self.transport = MemoryTransport(network, node, address)
        network._transports[address] = self.transport
        self.lost: list[str] = []
        self.peers = Peers(self.loop, self.transport, address, self._hear, lambda node, why: self.lost.append(why))
        self.peers.connect(SHARD, World.address)

    def _hear(self, sender: NodeId, payloads: list[bytes]) -> None:
        self.got += [codec.decode(payload, codec.ENVELOPE_BYTES) for payload in payloads]

    def say(self, sender: ProcessId, message: Message) -> None:
        frame = codec.wrap(raylet_of(SHARD), sender, codec.encode(message))
        self.peers.send(SHARD, frame if isinstance(frame, bytes) else b"".join(frame))


class World:
    """A shard that dies and lives again at the same address, a head and two nodes."""

    address = "memory://shard"

    def __init__(self, dies_at: Callable[[int], bool] = lambda write: False, before: bool = True) -> None:
        self.network = MemoryNetwork()
        self.now = 100.0
        memory = MemoryTables()
        self.tables = DeadlyTables(lambda: memory, dies_at, before)
        self.deaths = 0
        assert CONFIG.head_address is not None
        self.head = Peer(self.network, HEAD_NODE, CONFIG.head_address)
        self.a, self.b = Peer(self.network, A, "memory://a"), Peer(self.network, B, "memory://b")
        self._begin()

    def _begin(self) -> None:
        self.loop = HandLoop()
        self.loop.now = self.now
        transport = MemoryTransport(self.network, SHARD, self.address)
        self.network._transports[self.address] = transport
        journal = Journal(self.tables.open, self.loop.clock)
        found = journal.load()
        assert (found is None) == (self.deaths == 0)
        self.shell = ShardShell(CONFIG, 0, self.loop, transport, self.address, journal, found)
        self.shell.begin()

    def turn(self) -> None:
        peers = (self.head, self.a, self.b)
        for loop in (self.loop, *(peer.loop for peer in peers)):
            loop.now = self.now
        try:
            self.shell._peers._on_readable()
            ring(self.loop)
            self.shell.flush()
        except Killed:
            self.deaths += 1
            self._begin()
        for peer in peers:
            peer.peers._on_readable()
            ring(peer.loop)
            peer.peers.flush()

    def until(self, done: Callable[[], Any], what: str) -> None:
        until = self.now + 60
        while not done():
            assert self.now < until, f"never: {what}; the head heard {self.head.got}"
            self.turn()
            self.now += 0.005

    def head_hears(self, kind: type[Message], times: int = 1) -> None:
        self.until(lambda: sum(type(one) is kind for one in self.head.got) >= times, f"{times} {kind.__name__}")


def live(world: World) -> list[Any]:
    """Two owners record, one frees some, both die, one of them with its node. What everybody was told."""
    world.head_hears(JoinShard)
    infos = [replace(node_info("a", CPU=1), address="memory://a"), replace(node_info("b", CPU=1), address="memory://b")]
    table = NodeTable([info.as_dict() for info in infos])
    world.head.say(HEAD, table)
    inner = object_id(task_id(SECOND, 9))
    holds: Value = (HOLDS, b"1", (inner,))
    stored: Value = (STORED, 1000, (B,))
    for number in range(1, 6):
        task: RecordedTask = (number, FUNCTION[0], b"arguments", [(0, inner)], [], 1, 3, {"CPU": 1000}, "", 0, 0, ())
        some = object_id(task_id(FIRST, number))
        world.a.say(FIRST, RecordObjects(DRIVER, [FUNCTION], [task], [(some, None, "")]))
        world.turn()
        world.a.say(FIRST, RecordObjects(DRIVER, [], [], [(some, holds if number % 2 else stored, "")]))
        world.turn()
    world.a.say(FIRST, ForgetRecords([object_id(task_id(FIRST, 1)), object_id(task_id(FIRST, 2))]))
    world.b.say(SECOND, RecordObjects(DRIVER, [], [], [(inner, stored, "")]))
    for _ in range(20):
        world.turn()
        world.now += 0.005
    world.a.say(raylet_of(A), ProcessGone(FIRST, "killed"))
    world.head_hears(EstateClosed)
    world.head.say(HEAD, ProcessGone(FIRST, "killed", DRIVER))
    world.head.say(HEAD, CloseNode(B, "silent"))
    world.head_hears(NodeClosed)
    world.head.say(HEAD, ProcessGone(SECOND, "its node is gone: silent", DRIVER))
    world.until(lambda: any(isinstance(one, AddBorrowers) for one in world.a.got), "what is inside is borrowed anew")
    for _ in range(62):  # the heir has said by then what it holds
        world.turn()
        world.now += 0.5
    world.until(lambda: any(isinstance(one, DropBorrowers) for one in world.a.got), "it is let go of")
    world.until(lambda: not world.shell._model.records.next_wake(), "all is over")
    assert [peer.lost for peer in (world.head, world.a, world.b)] == [[], [], []]
    return [*world.head.got, world.a.got, sorted(map(repr, world.b.got))]


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[Any], int]:
    world = World()
    return live(world), world.tables.writes


def test_what_is_expected_of_a_shard_that_lives(undisturbed: tuple[list[Any], int]) -> None:
    told, writes = undisturbed
    closed = [one for one in told if isinstance(one, EstateClosed)]
    assert [(one.owner, len(one.tasks), len(one.objects)) for one in closed] == [(FIRST, 1, 3), (SECOND, 0, 1)]
    assert writes > 15


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_it_may_die_at_any_write(undisturbed: tuple[list[Any], int], before: bool) -> None:
    expected, writes = undisturbed
    for deadly in range(2, writes + 1):
        world = World(lambda write, deadly=deadly: write == deadly, before)  # type: ignore[misc]
        assert live(world) == expected, f"it died at write {deadly}"
        assert world.deaths == 1


def test_no_life_need_last_longer_than_two_writes(undisturbed: tuple[list[Any], int]) -> None:
    world = World(lambda write: write % 2 == 0, before=False)
    assert live(world) == undisturbed[0]
    assert world.deaths > 5


def test_it_may_die_while_each_turn_writes_a_snapshot(
    undisturbed: tuple[list[Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SNAPSHOT_BYTES", 0)
    monkeypatch.setattr(journals, "SNAPSHOT_FACTOR", 0)
    world = World(lambda write: write % 3 == 0, before=False)
    assert live(world) == undisturbed[0]
    assert world.deaths > 3
