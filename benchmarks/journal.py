"""What it costs the GCS to outlive its process: for each message, for a snapshot, and until another goes on.

    python benchmarks/journal.py               200 nodes, 2,000 actors
    python benchmarks/journal.py 1000 10000    so many nodes, and actors
    python benchmarks/journal.py --shards      records of objects, in the head and in 1 and 2 shards at once

The head's process but for its sockets: real frames over links in one process (as `tests/processes/test_journal.py` has
them), with the journal in SQLite, in a Redis server on this host (where redis-server and the package redis are
installed), and without. "us a message" is all that the head does for a message: link, decoding, model, encoding.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

from sparkray_core.ids import (
    HEAD,
    HEAD_NODE,
    ActorId,
    FunctionId,
    LeaseId,
    NodeId,
    ProcessId,
    object_id,
    raylet_of,
    task_id,
)
from sparkray_core.messages import (
    ActorReady,
    CreateActor,
    ForgetRecords,
    Message,
    NodeBeat,
    NodeTable,
    RecordedTask,
    RecordObjects,
    RequestLeases,
)
from sparkray_core.model.head import Head
from sparkray_core.model.link import Deliver, Link, LinkEffect, Transmit
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.head_main import Master
from sparkray_core.run.journal import Journal
from sparkray_core.run.journalled import Journalled
from sparkray_core.run.loop import Callback, Loop
from sparkray_core.run.redis_tables import RedisTables
from sparkray_core.run.shard_main import ShardShell
from sparkray_core.run.tables import SqliteTables, Tables
from sparkray_core.settings import Settings
from sparkray_core.wire import codec

ROUNDS = 7
TURN = 20  # messages that one turn of the loop finds, when the head is busy


class NoLoop(Loop):
    """Nobody polls: packets are handed over by hand."""

    def watch(self, descriptor: int, on_readable: Callback, on_writable: Callback | None = None) -> None:
        pass


class Wire:
    """A transport whose other end is `Nodes`."""

    address = "memory://head"

    def __init__(self) -> None:
        self.arrived: list[tuple[NodeId, bytes]] = []
        self.sent: list[tuple[NodeId, bytes]] = []

    def connect(self, peer: NodeId, address: str) -> None:
        pass

    def disconnect(self, peer: NodeId) -> None:
        pass

    def send(self, peer: NodeId, packet: bytes) -> bool:
        self.sent.append((peer, packet))
        return True

    def receive(self) -> list[tuple[NodeId, bytes]]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def lost(self) -> list[NodeId]:
        return []

    def pending(self) -> bool:
        return bool(self.arrived)

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


class NoJournal(Journal):
    """Nothing is kept."""

    def __init__(self) -> None:
        super().__init__(lambda: SqliteTables(""))

    def begin(self, seed: bytes) -> None:
        pass

    def commit(self, state: object, under_way: object = None) -> None:
        self._facts.clear()


class Session:
    def __init__(self, nodes: int, open_tables: Callable[[], Tables] | None) -> None:
        config = NodeConfig(
            session="s",
            node=NodeId(bytes(8)),
            token=bytes(32),
            is_head=True,
            head_address=None,
            resources={},
            store_bytes=1,
            base_folder="/nowhere",
            settings=Settings(node_timeout_s=3600),
        )
        self.config = config
        self.wire = Wire()
        self.loop = NoLoop()
        self.journal = NoJournal() if open_tables is None else Journal(open_tables)
        self.master = self.make()
        self.master.begin()
        self.names = [NodeId((number + 1).to_bytes(8, "big")) for number in range(nodes)]
        self.links = {node: Link(os.urandom(8), time.monotonic()) for node in self.names}
        self.spent = 0.0
        self.join()

    def make(self) -> Journalled[Any]:
        return Master(self.config, self.loop, self.wire, self.wire.address, self.journal)

    @property
    def head(self) -> Head:
        assert isinstance(self.master, Master)
        return self.master._head

    def join(self) -> None:
        self.head.limits = replace(self.head.limits, table_gap_s=3600)  # not a table for each node with each that joins
        for number, node in enumerate(self.names):
            info = NodeInfo(node, f"tcp://{node.hex()}:1", "x", 1, {"CPU": 4000}, {}, 1 << 30, "/x")
            self.say(node, raylet_of(node), info.join())
            if number % TURN == 0:
                self.turn()
        self.turn()

    def say(self, node: NodeId, sender: ProcessId, *messages: Message) -> None:
        frames = [HEAD + sender + codec.encode(message) for message in messages]
        self.transmit(node, self.links[node].send(frames, time.monotonic()))

    def transmit(self, node: NodeId, effects: Sequence[LinkEffect]) -> None:
        self.wire.arrived += [(node, effect.packet) for effect in effects if isinstance(effect, Transmit)]

    def turn(self) -> None:
        """The head reads what there is; the nodes acknowledge what it says."""
        while self.wire.arrived:
            began = time.perf_counter()
            self.master._peers._on_readable()
            self.master.flush()
            self.spent += time.perf_counter() - began
            sent, self.wire.sent = self.wire.sent, []
            now = time.monotonic()
            for node, packet in sent:
                effects = self.links[node].received(packet, now)
                if any(isinstance(effect, Deliver) for effect in effects):
                    effects += self.links[node].tick(now + 1)
                self.transmit(node, effects)

    def actors(self, count: int) -> None:
        for number in range(count):
            node = self.names[number % len(self.names)]
            owner = ProcessId(node + b"\xff" * 8)
            actor = ActorId(task_id(owner, number))
            create = CreateActor(actor, "Toy", FunctionId(bytes(16)), bytes(500), bytes(100), None, {}, {}, 0)
            self.say(node, owner, create)
            if number % TURN == 0:
                self.turn()
        self.turn()
        for actor in list(self.head.actors.all.values()):
            if actor.node is not None:
                self.say(actor.node, ProcessId(actor.node + b"worker.."), ActorReady(actor.id, 0))
        self.turn()

    def beats(self, count: int) -> float:
        """Microseconds of the head's for each."""
        self.spent = 0.0
        for number in range(count):
            node = self.names[number % len(self.names)]
            self.say(node, raylet_of(node), NodeBeat({"CPU": 4000 - number % 4}, 0, 0.01, 1 << 40, 1 << 40))
            if number % TURN == TURN - 1:
                self.turn()
        self.turn()
        return 1e6 * self.spent / count

    def leases(self, count: int, batch: int) -> float:
        self.spent = 0.0
        for number in range(0, count, batch):
            node = self.names[number % len(self.names)]
            owner = ProcessId(node + b"\xff" * 8)
            wanted = [LeaseId(task_id(owner, number + more)) for more in range(batch)]
            self.say(node, owner, RequestLeases(wanted, {"CPU": 1000}, []))
            if number % TURN == 0:
                self.turn()
        self.turn()
        return 1e6 * self.spent / count

    def records(self, count: int) -> float:
        """Microseconds for each result of a task that is recorded, gets its value, and is freed."""
        self.spent = 0.0
        for number in range(count):
            node = self.names[number % len(self.names)]
            owner = ProcessId(node + b"\xff" * 8)
            some = object_id(task_id(owner, number))
            task: RecordedTask = (number, FunctionId(bytes(16)), bytes(300), [], [], 1, 3, {"CPU": 1000}, "", 0, 0, ())
            driver = ProcessId(b"")
            self.say(node, owner, RecordObjects(driver, [], [task], [(some, None, "")]))
            self.say(node, owner, RecordObjects(driver, [], [], [(some, bytes(100), "")]))
            self.say(node, owner, ForgetRecords([some]))
            if number % (TURN // 3) == 0:
                self.turn()
        self.turn()
        return 1e6 * self.spent / count


class ShardSession(Session):
    """The same nodes, and a shard in the head's place."""

    def make(self) -> Journalled[Any]:
        config = replace(self.config, head_address="memory://head")
        return ShardShell(config, 0, self.loop, self.wire, self.wire.address, self.journal)

    def join(self) -> None:
        self.links[HEAD_NODE] = Link(os.urandom(8), time.monotonic())
        table = [
            NodeInfo(node, f"tcp://{node.hex()}:1", "x", 1, {"CPU": 4000}, {}, 1 << 30, "/x").as_dict()
            for node in self.names
        ]
        self.say(HEAD_NODE, HEAD, NodeTable(table))
        self.turn()


def records_in(kind: str, nodes: int, folder: str) -> float:
    """A second's worth, in a process of its own."""
    path = os.path.join(folder, f"{os.getpid()}.sqlite")
    session = (ShardSession if kind == "shard" else Session)(nodes, lambda: SqliteTables(path))
    session.records(1000)
    return 1e6 / statistics.median(session.records(3000) for _ in range(3))


def compare_shards(nodes: int) -> int:
    print(f"{nodes} nodes, {os.cpu_count()} cores; a journal in SQLite; of a result: recorded, with its value, freed")
    with tempfile.TemporaryDirectory() as folder:
        for kind, processes in (("head", 1), ("shard", 1), ("shard", 2)):
            with ProcessPoolExecutor(processes) as pool:
                rates = list(pool.map(records_in, [kind] * processes, [nodes] * processes, [folder] * processes))
            print(f"{processes} x {kind:<6} {sum(rates):>8,.0f} results/s in all", flush=True)
    return 0


@contextlib.contextmanager
def redis_at(folder: str) -> Iterator[str | None]:
    """The URL of a server of our own; None: it or its client is not installed."""
    server = shutil.which("redis-server")
    if server is None or importlib.util.find_spec("redis") is None:
        yield None
        return
    path = os.path.join(folder, "redis.sock")
    words = [server, "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", folder]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        while not os.path.exists(path):
            time.sleep(0.01)
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait()


def goes_on(session: Session, open_tables: Callable[[], Tables]) -> str:
    session.beats(3000)
    session.journal.close()
    began = time.perf_counter()
    journal = Journal(open_tables)
    found = journal.load()
    assert found is not None
    wire = Wire()
    Master(session.config, NoLoop(), wire, wire.address, journal, found).begin()
    took = time.perf_counter() - began
    journal.end()
    return f"another goes on after {1e3 * took:.0f} ms, with {len(found.turns)} turns replayed"


def main() -> int:
    if sys.argv[1:2] == ["--shards"]:
        return compare_shards(200)
    nodes, actors = map(int, sys.argv[1:3] or ("200", "2000"))
    with tempfile.TemporaryDirectory() as folder, redis_at(folder) as url:
        kept: dict[str, Callable[[], Tables]] = {"SQLite": lambda: SqliteTables(os.path.join(folder, "gcs.sqlite"))}
        if url is None:
            print("no Redis: redis-server, or the package redis, is not installed")
        else:
            kept["Redis"] = lambda: RedisTables(url, "s", folder)
        sessions = {"none": Session(nodes, None)} | {name: Session(nodes, made) for name, made in kept.items()}
        print(f"{nodes} nodes; medians of {ROUNDS} rounds, turn and turn about, {TURN} messages in a turn", flush=True)
        for what, measure in {
            "us a beat": lambda session: session.beats(4000),
            "us a lease, 1 a message": lambda session: session.leases(2000, 1),
            "us a lease, 8 a message": lambda session: session.leases(4000, 8),
        }.items():
            found: dict[str, list[float]] = {name: [] for name in sessions}
            for _ in range(ROUNDS):
                for name, session in sessions.items():
                    gc.collect()
                    found[name].append(measure(session))
            without = statistics.median(found.pop("none"))
            print(f"{what:<26} {without:>6.1f} without a journal", end="")
            for name, times in found.items():
                print(
                    f", {statistics.median(times):>6.1f} in {name} ({statistics.median(times) / without - 1:+.0%})",
                    end="",
                )
            print(flush=True)
        for name, open_tables in kept.items():
            session = sessions[name]
            session.actors(actors)
            began = time.perf_counter()
            state = session.master._state()
            print(f"{name}, with {actors} actors: a snapshot has {len(state) / 1e6:.1f} MB; pickled in", end=" ")
            print(f"{1e3 * (time.perf_counter() - began):.0f} ms;", goes_on(session, open_tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
