"""The head is killed at every write, before and after it: what it acknowledged is so, and nothing happens twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sparkray_core.frozen import field_names
from sparkray_core.ids import HEAD, HEAD_NODE, ActorId, FunctionId, GroupId, NodeId, ProcessId, raylet_of
from sparkray_core.messages import (
    ActorChanged,
    ActorLost,
    ActorReady,
    ActorSaved,
    Answer,
    Ask,
    BundlesReserved,
    CreateActor,
    CreateGroup,
    EndActor,
    FindActor,
    GroupChanged,
    Message,
    NameActor,
    NodeTable,
    RegisterJob,
    RemoveGroup,
    RequestLeases,
    ReserveBundles,
    SaveActor,
    StartActor,
)
from sparkray_core.run import journal as journals
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.head_main import Master
from sparkray_core.run.journal import Journal
from sparkray_core.run.peers import Peers
from sparkray_core.run.tables import JOURNAL, SNAPSHOT, MemoryTables, Row, SqliteTables, Tables, TablesBroken
from sparkray_core.settings import Settings
from sparkray_core.testing.builders import lease_id, node_id, node_info, process_id
from sparkray_core.wire import codec
from sparkray_core.wire.memory_transport import MemoryNetwork, MemoryTransport
from tests.processes.test_peers import HandLoop

A, B = node_id("a"), node_id("b")
DRIVER = process_id(A, "driver")
ACTOR = ActorId(lease_id(DRIVER, 1))
GROUP = GroupId(lease_id(DRIVER, 2))
NAME = "space\0name"
CONFIG = NodeConfig(
    session="s",
    node=A,
    token=bytes(32),
    is_head=True,
    head_address=None,
    resources={},
    store_bytes=1,
    base_folder="/nowhere",
    settings=Settings(node_timeout_s=60),
)


class Killed(Exception):
    pass


class DeadlyTables:
    """Whoever writes there for the so-manieth time dies of it. Each life opens them for itself."""

    def __init__(self, open_tables: Callable[[], Tables], dies_at: Callable[[int], bool], before: bool) -> None:
        self.open_tables, self.dies_at, self.before = open_tables, dies_at, before
        self.tables: Tables = MemoryTables()
        self.writes = 0

    def open(self) -> DeadlyTables:
        self.tables.close()
        self.tables = self.open_tables()
        return self

    def load(self, table: str) -> list[tuple[int, bytes]]:
        return self.tables.load(table)

    def commit(self, rows: Sequence[Row], below: Mapping[str, int] | None = None) -> None:
        self.writes += 1
        dies = self.writes > 1 and self.dies_at(self.writes)
        if dies and self.before:
            raise Killed
        self.tables.commit(rows, below)
        if dies:
            raise Killed

    def close(self) -> None:
        pass

    def destroy(self) -> None:
        raise AssertionError("nothing is broken")


class FakeNode:
    """A raylet, its workers, and on one of them a driver: it says yes to everything."""

    def __init__(self, network: MemoryNetwork, letter: str) -> None:
        self.node = node_id(letter)
        self.loop = HandLoop()
        self.transport = network.transport(self.node)
        self.info = node_info(letter, CPU=4)
        self.got: list[Message] = []
        self.lost: list[str] = []
        self.peers = Peers(
            self.loop,
            self.transport,
            self.transport.address,
            self._hear,
            lambda node, why: self.lost.append(why),
        )

    def join(self, head: str) -> None:
        self.peers.connect(HEAD_NODE, head)
        facts = self.info.join()
        facts.address = self.transport.address  # type: ignore[misc]
        self.say(raylet_of(self.node), facts)

    def say(self, sender: ProcessId, message: Message) -> None:
        frame = codec.wrap(HEAD, sender, codec.encode(message))
        self.peers.send(HEAD_NODE, frame if isinstance(frame, bytes) else b"".join(frame))

    def _hear(self, sender: NodeId, payloads: list[bytes]) -> None:
        for payload in payloads:
            message = codec.decode(payload, codec.ENVELOPE_BYTES)
            self.got.append(message)
            if isinstance(message, StartActor):
                self.say(self.worker, ActorReady(message.actor, message.incarnation))
            elif isinstance(message, ReserveBundles):
                self.say(raylet_of(self.node), BundlesReserved(message.group, message.attempt, True))

    @property
    def worker(self) -> ProcessId:
        return process_id(self.node, "worker")


class World:
    """A head that dies and lives again at the same address, and two nodes."""

    def __init__(
        self,
        open_tables: Callable[[], Tables],
        dies_at: Callable[[int], bool] = lambda write: False,
        before: bool = True,
    ) -> None:
        self.network = MemoryNetwork()
        self.now = 100.0
        self.tables = DeadlyTables(open_tables, dies_at, before)
        self.address = "memory://head"
        self.deaths = 0
        self.a, self.b = FakeNode(self.network, "a"), FakeNode(self.network, "b")
        self._begin()
        self.a.join(self.address)
        self.b.join(self.address)

    def _begin(self) -> None:
        self.loop = HandLoop()
        self.loop.now = self.now
        self.transport = MemoryTransport(self.network, HEAD_NODE, self.address)
        self.network._transports[self.address] = self.transport
        journal = Journal(self.tables.open, self.loop.clock)
        found = journal.load()
        assert (found is None) == (self.deaths == 0)
        self.master = Master(CONFIG, self.loop, self.transport, self.address, journal, found)
        self.master.begin()

    def turn(self) -> None:
        """All that is to be done now, by everybody."""
        for loop in (self.loop, self.a.loop, self.b.loop):
            loop.now = self.now
        try:
            self.master._peers._on_readable()
            ring(self.loop)
            self.master.flush()
        except Killed:
            self.deaths += 1
            self._begin()
        for node in (self.a, self.b):
            node.peers._on_readable()
            ring(node.loop)
            node.peers.flush()

    def until(self, done: Callable[[], Any], what: str) -> None:
        until = self.now + 60
        while not done():
            assert self.now < until, f"never: {what}; node a heard {self.a.got}"
            self.turn()
            self.now += 0.005

    def ask(self, message: Any, node: FakeNode | None = None) -> Any:
        (node or self.a).say(DRIVER, message)
        return self.answer(message.request)

    def answer(self, request: int) -> Any:
        def found() -> list[Answer]:
            return [one for one in self.a.got if isinstance(one, Answer) and one.request == request]

        self.until(found, f"an answer to {request}")
        (answer,) = found()
        return answer.value

    def hears(self, kind: type[Message], *last: Any) -> None:
        """Waits until the last of its kind that the driver's node was told says this."""

        def said() -> bool:
            facts = [[getattr(one, name) for name in field_names(kind)] for one in self.a.got if type(one) is kind]
            return bool(facts) and all(fact in facts[-1] for fact in last)

        self.until(said, f"{kind.__name__} with {last}")


def ring(loop: HandLoop) -> None:
    for timer in loop._timers:
        if timer.at <= loop.now:
            timer.at = float("inf")
            timer.on_ring()


def always(tables: Tables) -> Callable[[], Tables]:
    return lambda: tables


def known_nodes(node: Any) -> set[NodeId]:
    return {row["node"] for one in node.got if isinstance(one, NodeTable) for row in one.nodes}


def live(world: World) -> list[Any]:
    """One of each thing that a head answers for. What the driver came to know by it."""
    known: list[Any] = []
    world.hears(NodeTable)
    world.until(lambda: len(known_nodes(world.a)) == 2, "two nodes")
    known.append(world.ask(RegisterJob(1, {"pid": 1})))
    known.append(world.ask(NameActor(2, NAME, ACTOR, "facts")))
    world.a.say(DRIVER, CreateActor(ACTOR, "Toy", FunctionId(b""), b"code", b"", None, {"CPU": 1000}, {}, 1))
    world.hears(ActorChanged, "alive", 0)
    home = world.a if any(isinstance(one, StartActor) for one in world.a.got) else world.b
    home.say(home.worker, SaveActor(ACTOR, 0, 1, b"state", None, 5))
    world.until(lambda: any(isinstance(one, ActorSaved) for one in home.got), "saved")
    world.a.say(DRIVER, CreateGroup(3, GROUP, "", [{"CPU": 1000}] * 2, "STRICT_SPREAD", (), False, known[0], None))
    world.hears(GroupChanged, "CREATED")
    home.say(raylet_of(home.node), ActorLost(ACTOR, 0, "its worker died", False))
    world.hears(ActorChanged, "alive", 1)
    world.a.say(DRIVER, RequestLeases([lease_id(DRIVER, n) for n in range(10, 14)], {"CPU": 1000}, []))
    known.append(world.ask(FindActor(4, NAME)))
    known.append({fact["actor"]: (fact["state"], fact["saved_bytes"]) for fact in world.ask(Ask(5, "actors"))})
    world.a.say(DRIVER, RemoveGroup(GROUP))
    world.hears(GroupChanged, "REMOVED")
    world.a.say(DRIVER, EndActor(ACTOR, "ray.kill() was called", False, False))
    world.hears(ActorChanged, "dead")
    known.append(world.ask(FindActor(6, NAME)))
    known.append([job["job"] for job in world.ask(Ask(7, "jobs"))])
    heard = [sorted(repr(one) for one in node.got if not isinstance(one, NodeTable)) for node in (world.a, world.b)]
    assert not world.a.lost
    assert not world.b.lost
    return [*known, heard]


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[Any], int]:
    world = World(always(MemoryTables()))
    return live(world), world.tables.writes


def test_what_is_expected_of_a_head_that_lives(undisturbed: tuple[list[Any], int]) -> None:
    known, writes = undisturbed
    assert known[:3] == ["01000000", None, (ACTOR, "facts")]
    assert known[3] == {ACTOR: ("alive", 5)}
    assert known[4:6] == [None, ["01000000"]]
    assert writes > 15


def test_a_node_that_says_nothing_lives_while_packets_come_from_it_and_dies_of_silence() -> None:
    world = World(always(MemoryTables()))
    world.hears(NodeTable)
    world.until(lambda: len(list(world.master._head.nodes.alive())) == 2, "two nodes")
    link = world.b.peers._links[HEAD_NODE]
    for _ in range(10):
        until, world.now = world.now + 1.0, world.now + 0.5
        world.a.transport.send(HEAD_NODE, world.a.peers._links[HEAD_NODE]._empty(world.now).packet)
        world.b.transport.send(HEAD_NODE, link._empty(world.now).packet)
        world.until(lambda until=until: world.now >= until, "")  # type: ignore[misc]
    assert [record.info.node for record in world.master._head.nodes.alive()] == [A, B]

    world.until(lambda: not list(world.master._head.nodes.alive()), "both are silent")


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_it_may_die_at_any_write(undisturbed: tuple[list[Any], int], before: bool) -> None:
    expected, writes = undisturbed
    for deadly in range(2, writes + 1):
        world = World(always(MemoryTables()), lambda write, deadly=deadly: write == deadly, before)  # type: ignore[misc]
        assert live(world) == expected, f"it died at write {deadly}"
        assert world.deaths == 1


def test_no_life_need_last_longer_than_two_writes(undisturbed: tuple[list[Any], int]) -> None:
    world = World(always(MemoryTables()), lambda write: write % 2 == 0, before=False)
    assert live(world) == undisturbed[0]
    assert world.deaths > 5


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_it_may_die_while_each_turn_writes_a_snapshot(
    undisturbed: tuple[list[Any], int], before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SNAPSHOT_BYTES", 0)
    monkeypatch.setattr(journals, "SNAPSHOT_FACTOR", 0)
    monkeypatch.setattr(journals, "PART_BYTES", 1000)
    world = World(lambda: SqliteTables(str(tmp_path / "gcs")), lambda write: write % 3 == 0, before)
    assert live(world) == undisturbed[0]
    assert world.deaths > 5
    tables = world.tables.tables
    assert len(tables.load(SNAPSHOT)) > 1
    assert tables.load(JOURNAL) == []
    tables.close()


# ---------------------------------------------------------------------------------- tables
@pytest.fixture(params=["memory", "sqlite"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    made: Tables = MemoryTables() if request.param == "memory" else SqliteTables(str(tmp_path / "t"))
    yield made
    made.close()


def test_tables_give_back_what_was_put_there_by_key(tables: Tables) -> None:
    tables.commit([(JOURNAL, 2, b"two")])
    tables.commit([(JOURNAL, 1, b"one"), (SNAPSHOT, 1, b"all"), (JOURNAL, 2, b"other")])
    assert tables.load(JOURNAL) == [(1, b"one"), (2, b"other")]

    tables.commit([(SNAPSHOT, 7, b"more")], {JOURNAL: 2, SNAPSHOT: 7})
    assert tables.load(JOURNAL) == [(2, b"other")]
    assert tables.load(SNAPSHOT) == [(7, b"more")]

    tables.destroy()


def test_rows_survive_the_kill_of_who_wrote_them(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    writes = textwrap.dedent(
        f"""
        import os, signal
        from sparkray_core.run.tables import SqliteTables
        tables = SqliteTables({path!r})
        for number in range(100):
            tables.commit([("journal", number, b"%d" % number * 500)], {{"journal": number - 50}})
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", writes], env={"PYTHONPATH": ":".join(filter(None, sys.path))})
    assert done.returncode == -signal.SIGKILL

    tables = SqliteTables(path)
    assert tables.load(JOURNAL) == [(number, b"%d" % number * 500) for number in range(49, 100)]
    tables.destroy()
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_no_database_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"no database" * 500)
    with pytest.raises(TablesBroken, match="file is not a database"):
        SqliteTables(str(path))


class FullDisk(MemoryTables):
    full = False

    def commit(self, rows: Sequence[Row], below: Mapping[str, int] | None = None) -> None:
        if self.full:
            raise TablesBroken("here", "disk is full")
        super().commit(rows, below)


def test_on_a_full_disk_the_head_goes_on_and_nothing_stale_is_left() -> None:
    tables = FullDisk()
    now = [0.0]
    journal = Journal(lambda: tables, lambda: now[0])
    journal.begin(b"seed")
    journal.note(("one",))
    journal.commit(lambda: b"state 1")
    tables.full = True
    journal.note(("two",))
    journal.commit(lambda: b"state 2")
    assert Journal(lambda: tables).load() is None

    tables.full = False
    journal.note(("three",))
    journal.commit(lambda: b"state 3")
    assert Journal(lambda: tables).load() is None, "it is not tried again at once"
    now[0] += journals.RETRY_S
    journal.note(("four",))
    journal.commit(lambda: b"state 4")
    journal.note(("five",))
    journal.commit(lambda: b"state 5")
    found = Journal(lambda: tables).load()
    assert found is not None
    assert (found.seed, found.snapshot, found.turns) == (b"seed", b"state 4", [[("five",)]])


def test_a_snapshot_waits_until_what_is_under_way_has_arrived_but_not_for_ever() -> None:
    tables = MemoryTables()
    now = [0.0]
    journal = Journal(lambda: tables, lambda: now[0])
    journal.begin(b"seed")

    def work(seconds: float, under_way: int) -> bool:
        journal.note(("work",))
        now[0] += seconds
        journal.commit(lambda: b"state", lambda: under_way)
        return tables.load(JOURNAL) == []

    assert not work(journals.REPLAY_S, journals.UNDER_WAY_BYTES + 1)
    assert work(0.0, journals.UNDER_WAY_BYTES)
    assert not work(journals.REPLAY_S, journals.UNDER_WAY_BYTES + 1)
    assert work(10 * journals.REPLAY_S, journals.UNDER_WAY_BYTES + 1)


def test_a_snapshot_is_due_after_as_much_work_as_may_be_replayed() -> None:
    tables = MemoryTables()
    now = [0.0]
    journal = Journal(lambda: tables, lambda: now[0])
    journal.begin(b"seed")
    for _ in range(10):
        journal.note(("work",))
        now[0] += journals.REPLAY_S / 4.5
        journal.commit(lambda: b"state")

    assert [key for key, _ in tables.load(JOURNAL)] == []
    assert tables.load(SNAPSHOT) == [(1, b"state")]
