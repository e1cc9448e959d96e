"""A node's whole tree, with real processes: it comes up, joins, and is gone, whichever of its processes dies."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sparkray_core.ids import (
    HEAD,
    LeaseId,
    NodeId,
    ProcessId,
    new_node_id,
    new_process_id,
    object_id,
    raylet_of,
    task_id,
)
from sparkray_core.messages import (
    AllocateObject,
    Answer,
    Ask,
    EndSession,
    LeaseGranted,
    LeaseLost,
    Message,
    ObjectAllocated,
    ObjectPinned,
    PinObject,
    Registered,
    RegisterProcess,
    RequestLeases,
    SealObjects,
)
from sparkray_core.run import processes
from sparkray_core.run.config import NodeConfig, ProcessTie
from sparkray_core.run.start import NodeStartError, StartedNode, new_session_name, new_token, start_node
from sparkray_core.settings import Settings
from sparkray_core.wire import codec, hello
from sparkray_core.wire.frames import LENGTH, ConnectionLost
from tests.marks import slow
from tests.waiting import is_running, wait_until

GONE_S = 30.0  # for a node whose own process was killed, or that has to notice the silence of another


def a_config(**changes: Any) -> NodeConfig:
    facts: dict[str, Any] = {
        "session": new_session_name(),
        "node": new_node_id(),
        "token": new_token(),
        "is_head": True,
        "head_address": None,
        "resources": {"CPU": 1000},
        "store_bytes": 1 << 20,
        "prestart": 1,
        "settings": Settings(log_level="DEBUG"),
    }
    return NodeConfig(**facts | changes)


def another(node: StartedNode) -> NodeConfig:
    """The configuration of one more node of the same session."""
    return replace(node.config, node=new_node_id(), is_head=False)


@dataclass
class Tree:
    """The processes of a started node, found by their names below the keeper."""

    node: StartedNode
    identities: dict[str, list[processes.Identity]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def find(pid: int) -> None:
            identity = processes.identify(pid)
            if identity is not None:
                name = Path(f"/proc/{pid}/comm").read_text().strip().removeprefix("sparkray-")
                self.identities.setdefault(name, []).append(identity)
                for child in processes.children_of(pid):
                    find(child)

        find(self.node.pid)

    def kill(self, name: str) -> None:
        os.kill(self.identities[name][0].pid, signal.SIGKILL)

    def wait_until_gone(self, limit: float = GONE_S) -> None:
        def left() -> list[str]:
            self.node.is_running()  # reaps
            alive = [name for name, found in self.identities.items() if any(map(processes.is_alive, found))]
            return alive + ([self.node.folder] if os.path.exists(self.node.folder) else [])

        deadline = time.monotonic() + limit
        while still := left():
            assert time.monotonic() < deadline, f"after {limit} s there is still: {still}"
            time.sleep(0.01)


def identity_of(pid: int) -> processes.Identity:
    identity = processes.identify(pid)
    assert identity is not None
    return identity


class Process:
    """A process of a node, as the raylet sees it: said hello, and got the segment's descriptor."""

    def __init__(self, node: StartedNode, role: str = "driver") -> None:
        self.me = new_process_id(node.config.node)
        self.raylet = raylet_of(node.config.node)
        path = os.path.join(node.folder, "raylet.sock")
        self.connection = hello.connect(path, node.config.token, self.me, role, self.raylet)
        self.segment = hello.recv_fd(self.connection.sock, self.raylet)

    def send(self, message: Message, to: ProcessId | None = None) -> None:
        self.connection.send(codec.wrap(to or self.raylet, self.me, codec.encode(message)))
        while self.connection.wants_write:
            assert select.select([], [self.connection], [], 10)[1], "the raylet does not read"
            self.connection.flush()

    def receive(self, kind: type[Any]) -> Any:
        """The next message of this kind; others are passed over."""
        while True:
            assert select.select([self.connection], [], [], 10)[0], f"no {kind.__name__} within 10 s"
            for frame in self.connection.receive():
                message = codec.decode(frame, codec.ENVELOPE_BYTES)
                if isinstance(message, kind):
                    return message

    def close(self) -> None:
        self.connection.close()
        os.close(self.segment)


@pytest.fixture
def process() -> Iterator[Callable[[StartedNode], Process]]:
    made: list[Process] = []

    def connect(node: StartedNode, role: str = "driver") -> Process:
        made.append(Process(node, role))
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def start() -> Iterator[Callable[[NodeConfig], StartedNode]]:
    started: list[StartedNode] = []

    def begin(config: NodeConfig) -> StartedNode:
        started.append(start_node(config))
        return started[-1]

    yield begin
    for node in reversed(started):
        assert node.stop()


@pytest.fixture(scope="module")
def node() -> Iterator[StartedNode]:
    """With the head, and for all tests that leave it as it is."""
    started = start_node(a_config())
    yield started
    assert started.stop()


Start = Callable[[NodeConfig], StartedNode]
Connect = Callable[[StartedNode], Process]


def wait_for_workers(node: StartedNode, count: int) -> Tree:
    deadline = time.monotonic() + GONE_S
    while len((tree := Tree(node)).identities.get("worker", [])) < count:
        assert time.monotonic() < deadline, f"no {count} workers: {tree.identities}"
        time.sleep(0.02)
    return tree


# ------------------------------------------------------------------------------------------ coming up
def test_a_head_node_comes_up_with_all_its_processes(start: Start) -> None:
    node = start(a_config())
    tree = wait_for_workers(node, 1)
    tree.identities.pop("spare", None)  # forked a moment later, ahead of the next worker

    assert {name: len(found) for name, found in tree.identities.items()} == {
        "keeper": 1,
        "zygote": 1,
        "head": 1,
        "raylet": 1,
        "worker": 1,
    }
    assert node.address.startswith("tcp://127.0.0.1:")
    assert node.head_address.startswith("tcp://127.0.0.1:")
    assert node.config.curve_public is not None
    assert os.stat(node.folder).st_mode & 0o777 == 0o700


def test_a_second_node_joins_and_both_tables_name_both(start: Start, node: StartedNode, process: Connect) -> None:
    first, second = node, start(another(node))
    ids = {first.config.node, second.config.node}

    for node in (first, second):
        one = process(node)
        one.send(RegisterProcess("driver", os.getpid()))
        assert one.receive(Registered) == Registered(node.config.session, node.folder, 1 << 20)
        one.send(Ask(1, "nodes"), to=HEAD)
        answer = one.receive(Answer)
        assert {NodeId(info["node"]) for info in answer.value if info["alive"]} == ids
    assert second.head_address == first.head_address


def test_process_is_handed_the_segment(node: StartedNode, process: Connect) -> None:
    assert os.fstat(process(node).segment).st_size == 1 << 20


def test_processes_have_no_secret_in_arguments_or_environment(node: StartedNode) -> None:
    for found in Tree(node).identities.values():
        for pid, _ in found:
            for file in ("cmdline", "environ"):
                content = Path(f"/proc/{pid}/{file}").read_bytes()
                assert node.config.token.hex().encode() not in content
                assert node.config.token not in content


# ------------------------------------------------------------------------------------------ going down
def test_stop_leaves_nothing_and_may_be_called_again(start: Start) -> None:
    node = start(a_config())
    tree = wait_for_workers(node, 1)

    assert node.stop()
    assert node.stop()
    tree.wait_until_gone(0.1)
    assert not os.path.exists(os.path.dirname(node.folder))


@pytest.mark.parametrize("victim", ["keeper", "raylet", "zygote"])
def test_head_node_is_gone_whichever_process_is_killed(start: Start, victim: str) -> None:
    node = start(a_config())
    tree = wait_for_workers(node, 1)

    tree.kill(victim)

    tree.wait_until_gone()


@pytest.mark.parametrize("victim", ["raylet", *slow("keeper", "zygote")])
def test_only_the_node_of_the_killed_process_is_gone(
    start: Start, node: StartedNode, process: Connect, victim: str
) -> None:
    first, second = node, start(another(node))
    tree = wait_for_workers(second, 1)

    tree.kill(victim)

    tree.wait_until_gone()
    one = process(first)
    one.send(RegisterProcess("driver", os.getpid()))
    deadline = time.monotonic() + GONE_S
    while True:
        one.send(Ask(1, "nodes"), to=HEAD)
        alive = {NodeId(info["node"]) for info in one.receive(Answer).value if info["alive"]}
        if alive == {first.config.node}:
            break
        assert time.monotonic() < deadline, "the head still takes the dead node for alive"
        time.sleep(0.05)
    assert first.is_running()


@pytest.mark.parametrize("victim", ["raylet", *slow("keeper", "zygote")])
def test_other_nodes_end_with_the_head_s_node(start: Start, victim: str) -> None:
    first = start(a_config())
    second = start(another(first))
    trees = [Tree(first), Tree(second)]

    trees[0].kill(victim)

    trees[0].wait_until_gone()
    trees[1].wait_until_gone()


def test_end_of_session_ends_every_node_with_exit_code_zero(start: Start, process: Connect) -> None:
    nodes = [start(a_config())]
    nodes.append(start(another(nodes[0])))
    trees = [Tree(node) for node in nodes]
    one = process(nodes[1])
    one.send(RegisterProcess("driver", os.getpid()))

    one.send(EndSession("the test is over"), to=HEAD)

    assert one.receive(EndSession) == EndSession("the test is over")
    for tree in trees:
        tree.wait_until_gone()


def test_a_node_that_leaves_is_missed_at_once(start: Start, node: StartedNode, process: Connect) -> None:
    first, second = node, start(another(node))
    one = process(first)
    one.send(RegisterProcess("driver", os.getpid()))

    assert second.stop()

    one.send(Ask(1, "nodes"), to=HEAD)
    why = {NodeId(info["node"]): info["why"] for info in one.receive(Answer).value if not info["alive"]}
    assert "silent" not in why[second.config.node]


def test_node_ends_with_the_process_that_started_it() -> None:
    """Even with the pipe held open by a child of that process."""
    script = """
import os, signal, sys, time
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.start import start_node
node = start_node(NodeConfig.from_json(sys.stdin.readline()))
child = os.fork()
if child == 0:  # it holds the keeper's stdin, and nothing else of ours
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    time.sleep(60)
    os._exit(0)
print(child, node.pid, node.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    driver = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    printed, _ = driver.communicate(a_config().to_json() + "\n", timeout=30)
    child, pid, folder = printed.split()
    try:
        gone = "the node has ended, its driver being dead"
        wait_until(lambda: processes.identify(int(pid)) is None and not os.path.exists(folder), gone)
        assert is_running(int(child))
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_node_tied_to_a_process_ends_with_it_and_not_with_stdin(start: Start) -> None:
    with subprocess.Popen(["sleep", "60"]) as tied:
        identity = processes.identify(tied.pid)
        assert identity is not None
        node = start(a_config(tie=ProcessTie(identity.pid, identity.start)))
        tree = wait_for_workers(node, 1)
        assert node.is_running(), "its stdin was closed long ago"

        tied.kill()

        tree.wait_until_gone()


def test_zygote_and_workers_end_with_the_raylet_while_the_keeper_cannot_look(start: Start) -> None:
    node = start(a_config())
    tree = wait_for_workers(node, 1)
    keeper = tree.identities["keeper"][0]
    os.kill(keeper.pid, signal.SIGSTOP)
    try:
        tree.kill("raylet")
        rest = [*tree.identities["zygote"], *tree.identities["worker"]]
        wait_until(lambda: not any(map(processes.is_alive, rest)), "they end without a keeper that could act")
    finally:
        os.kill(keeper.pid, signal.SIGCONT)
    tree.wait_until_gone()


def test_no_child_holds_what_another_waits_for_the_end_of(node: StartedNode) -> None:
    tree = wait_for_workers(node, 1)

    def pipes_and_files(name: str) -> list[str]:
        folder = Path(f"/proc/{tree.identities[name][0].pid}/fd")
        return [target for entry in folder.iterdir() if "pipe" in (target := os.readlink(entry)) or "/" in target]

    lifeline = set(pipes_and_files("head")) & set(pipes_and_files("raylet")) & set(pipes_and_files("zygote"))
    assert [target for target in lifeline if target.startswith("pipe")] != []
    assert lifeline.isdisjoint(target for target in pipes_and_files("worker") if target.startswith("pipe"))
    for name, is_held in {"keeper": True, "head": True, "raylet": True, "zygote": False, "worker": False}.items():
        assert any(target.endswith("keeper.json") for target in pipes_and_files(name)) == is_held, name


def test_keeper_has_one_thread(node: StartedNode) -> None:
    assert os.listdir(f"/proc/{node.pid}/task") == [str(node.pid)]


@pytest.mark.parametrize("victim", ["keeper", "raylet", "zygote", "stdin"])
def test_without_what_only_linux_has_all_is_gone_too(
    start: Start, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKRAY_PORTABLE", "1")
    node = start(a_config())
    deadline = time.monotonic() + GONE_S
    while not list(Path(node.folder).glob("0*.sock")):  # names are not set here: a worker's socket shows it
        assert time.monotonic() < deadline, "no worker"
        time.sleep(0.01)
    monkeypatch.delenv("SPARKRAY_PORTABLE")
    zygote, head, raylet = sorted(processes.children_of(node.pid))  # in the order of their forks
    (worker,) = processes.children_of(zygote)
    pids = {"keeper": node.pid, "zygote": zygote, "head": head, "raylet": raylet, "worker": worker}
    tree = Tree(node)
    tree.identities = {name: [identity_of(pid)] for name, pid in pids.items()}

    if victim == "stdin":
        assert node.stop()
    else:
        tree.kill(victim)

    tree.wait_until_gone()


# ------------------------------------------------------------------------------------------ refusals
def test_tie_to_a_dead_process_is_refused() -> None:
    with pytest.raises(NodeStartError, match="process 1 has ended"):
        start_node(a_config(tie=ProcessTie(1, 1.0)))


def test_a_node_without_a_head_to_reach_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    config = a_config(is_head=False, head_address="tcp://127.0.0.1:1", curve_public=b"p" * 40, curve_secret=b"s" * 40)
    with pytest.raises(NodeStartError):
        start_node(config, timeout=3)


def test_bad_config_is_told_in_a_sentence() -> None:
    with pytest.raises(NodeStartError, match="curve keys"):
        start_node(a_config(is_head=False, head_address="tcp://127.0.0.1:1"))


def test_a_python_that_cannot_run_it_is_told_with_what_it_printed(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such module\nexit 1\n")
    python.chmod(0o700)

    with pytest.raises(NodeStartError, match="no such module"):
        start_node(a_config(), python=str(python))
    with pytest.raises(NodeStartError, match="cannot be run"):
        start_node(a_config(), python="/nowhere/python")


def test_a_silent_python_is_given_up_in_time(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o700)

    with pytest.raises(NodeStartError, match=r"not ready within 0\.2 s"):
        start_node(a_config(), python=str(python), timeout=0.2)


def test_folder_of_someone_else_is_told() -> None:
    with pytest.raises(NodeStartError, match=r"belongs to user|open to other users"):
        start_node(a_config(base_folder="/tmp"))


# ------------------------------------------------------------------------------------------ garbage
@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        LENGTH.pack(1 << 31) + b"x",
        LENGTH.pack(4) + b"junk",
    ],
)
def test_who_says_no_hello_is_cut_off_and_the_raylet_goes_on(node: StartedNode, process: Connect, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(5)
        stranger.connect(os.path.join(node.folder, "raylet.sock"))
        stranger.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""

    one = process(node)
    one.send(RegisterProcess("driver", 1))
    assert isinstance(one.receive(Registered), Registered)


def test_who_shows_another_token_is_cut_off(node: StartedNode) -> None:
    path = os.path.join(node.folder, "raylet.sock")
    raylet = raylet_of(node.config.node)
    connection = hello.connect(path, new_token(), new_process_id(node.config.node), "driver", raylet)
    with pytest.raises(ConnectionLost):
        hello.recv_fd(connection.sock, raylet)
    connection.close()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"too short",
        b"r" * 16 + b"s" * 16 + b"not a pickle",
        "own name, garbage behind it",
        "in another's name",
        "another length",
    ],
)
def test_a_process_that_sends_garbage_is_cut_off_and_the_raylet_goes_on(
    node: StartedNode, process: Connect, frame: bytes | str
) -> None:
    bad, good = process(node), process(node)
    bad.send(RegisterProcess("driver", 1))
    bad.receive(Registered)
    if frame == "own name, garbage behind it":
        bad.connection.send(bad.raylet + bad.me + b"not a pickle")
    elif frame == "in another's name":
        bad.connection.send(codec.wrap(bad.raylet, good.me, codec.encode(Ask(1, "status"))))
    elif frame == "another length":
        bad.connection.sock.sendall(LENGTH.pack(0xFFFFFFFF))
    else:
        assert isinstance(frame, bytes)
        bad.connection.send(frame)

    with pytest.raises(ConnectionLost):
        bad.receive(Answer)
    good.send(RegisterProcess("driver", 1))
    assert isinstance(good.receive(Registered), Registered)


# ------------------------------------------------------------------------------------------ relaying
def test_frames_reach_a_process_of_another_node(start: Start, node: StartedNode, process: Connect) -> None:
    first, second = node, start(another(node))
    here, there = process(first), process(second)
    for one in (here, there):
        one.send(RegisterProcess("driver", os.getpid()))
        one.receive(Registered)

    here.send(Answer(1, b"x" * 100), to=there.me)
    assert there.receive(Answer) == Answer(1, b"x" * 100)
    there.send(Answer(2, b"y" * 3_000_000), to=here.me)
    assert here.receive(Answer) == Answer(2, b"y" * 3_000_000)


def test_an_object_is_pulled_from_another_node(start: Start, process: Connect) -> None:
    first = start(a_config(store_bytes=32 << 20))
    second = start(another(first))
    writer, reader = process(first), process(second)
    for one in (writer, reader):
        one.send(RegisterProcess("driver", os.getpid()))
        one.receive(Registered)
    content = os.urandom(9_000_000)  # three chunks
    some = object_id(task_id(writer.me, 1))
    writer.send(AllocateObject(some, len(content)))
    os.pwrite(writer.segment, content, writer.receive(ObjectAllocated).offset)
    writer.send(SealObjects([some]))

    reader.send(PinObject(some, [first.config.node]))
    pinned = reader.receive(ObjectPinned)

    assert os.pread(reader.segment, pinned.size, pinned.offset) == content


def test_actors_and_tasks_get_a_worker_that_dies_when_it_is_killed(start: Start, process: Connect) -> None:
    node = start(a_config(prestart=0))
    owner = process(node)
    owner.send(RegisterProcess("driver", os.getpid()))
    owner.receive(Registered)
    lease = LeaseId(task_id(owner.me, 1))
    owner.send(RequestLeases([lease], {"CPU": 1000}, []))
    granted = owner.receive(LeaseGranted)
    assert granted.lease == lease
    (worker,) = wait_for_workers(node, 1).identities["worker"]

    os.kill(worker.pid, signal.SIGKILL)

    assert owner.receive(LeaseLost) == LeaseLost(lease, "killed by SIGKILL")
