"""A zygote forks, reports and reaps; it and its workers end with the raylet's socket and with their parents."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator

import pytest

from sparkray_core.ids import NodeId, ProcessId, new_process_id
from sparkray_core.run import folders, processes, zygote
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.zygote_client import Exited, ZygoteClient, ZygoteGone
from tests.waiting import wait_until

NODE = NodeId(b"zygotest")
LIMIT_S = 30.0


def sleep(_: NodeConfig, __: ProcessId, be_wanted: Callable[[], None]) -> None:
    be_wanted()
    time.sleep(60)


class Started:
    """A zygote, and the raylet's end of it."""

    def __init__(self, worker_main: zygote.WorkerMain) -> None:
        self.config = NodeConfig("zygote", NODE, bytes(32), True, None, {}, 1, base_folder=f"/tmp/zy{os.getpid()}")
        self.folder = folders.make_node_folder(self.config.base_folder, "zygote", NODE.hex()[:8])
        ours, its = socket.socketpair()
        self.lifeline, self.lifeline_end = os.pipe()
        self.read, self.write = os.pipe()  # workers hold its end: its end of file says that all are gone
        close = [ours.fileno(), self.lifeline_end, self.read]
        stub = types.ModuleType("sparkray_core.run.worker_main")
        stub.__dict__["main"] = worker_main
        before = sys.modules.get(stub.__name__)
        sys.modules[stub.__name__] = stub
        try:
            self.pid = processes.fork(run_zygote, stub, self.config, its, self.lifeline, os.getpid(), close=close)
        finally:
            del sys.modules[stub.__name__]
            if before is not None:
                sys.modules[stub.__name__] = before
        its.close()
        os.close(self.write)
        self.client = ZygoteClient(ours)
        self.socket = ours

    def exits(self, count: int) -> list[Exited]:
        found: list[Exited] = []
        while len(found) < count:
            assert select.select([self.client], [], [], LIMIT_S)[0], f"only {found} were reported"
            found += self.client.receive()
        return found

    def wait_for_end(self) -> None:
        """Of the zygote and everything that it forked."""
        os.waitpid(self.pid, 0)
        assert os.read(self.read, 1) == b""

    def close(self) -> None:
        self.client.close()
        for descriptor in (self.lifeline, self.lifeline_end, self.read):
            os.close(descriptor)
        folders.remove_node_folder(self.folder)
        os.rmdir(self.config.base_folder)


def run_zygote(stub: types.ModuleType, config: NodeConfig, raylet: socket.socket, lifeline: int, keeper: int) -> None:
    import sparkray_core.run

    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__  # not pytest's
    sparkray_core.run.__dict__["worker_main"] = stub
    zygote.main(config, raylet, lifeline, keeper)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[zygote.WorkerMain], Started]]:
    started: list[Started] = []
    monkeypatch.setattr(zygote, "_SPARE_S", 0.01)

    def begin(worker_main: zygote.WorkerMain) -> Started:
        started.append(Started(worker_main))
        return started[-1]

    yield begin
    for one in started:
        one.close()


Start = Callable[[zygote.WorkerMain], Started]
Wanted = Callable[[], None]


def a_worker(number: int) -> ProcessId:
    return ProcessId(NODE + number.to_bytes(8, "big"))


def note_and_sleep(config: NodeConfig, process: ProcessId, be_wanted: Wanted) -> None:
    """Say who has begun, and who is wanted; the last worker's end is that of a program."""

    def note(what: str) -> None:
        with open(os.path.join(config.folder, "noted"), "a") as file:
            file.write(f"{what} {process[-1]} {os.getpid()}\n")

    note("begun")
    be_wanted()
    note("wanted")
    if process[-1] != 9:
        time.sleep(60)


def noted(one: Started, what: str, number: int) -> int:
    """The pid of the worker of this number that has noted this."""
    pids: list[int] = []

    def find() -> bool:
        with contextlib.suppress(FileNotFoundError), open(os.path.join(one.folder, "noted")) as file:
            pids[:] = [int(line.split()[2]) for line in file if line.startswith(f"{what} {number} ")]
        return bool(pids)

    wait_until(find, f"worker {number} is {what}", LIMIT_S)
    return pids[-1]


def test_each_end_of_a_worker_is_told_in_words(start: Start) -> None:
    def by_last_byte(_: NodeConfig, process: ProcessId, be_wanted: Wanted) -> None:
        be_wanted()
        if process[-1] == 1:
            sys.exit(3)
        if process[-1] == 2:
            raise ValueError("in the log")
        time.sleep(60)

    one = start(by_last_byte)
    workers = [ProcessId(NODE + bytes(7) + bytes([number])) for number in range(4)]
    for worker in workers:
        one.client.fork(worker)
    one.client.kill(workers[3])

    assert {(exited.worker[-1], exited.why) for exited in one.exits(3)} == {
        (1, "exit code 3"),
        (2, "exit code 1"),
        (3, "killed by SIGKILL"),
    }
    with open(one.config.log_path(f"worker-{workers[2][8:].hex()}")) as log:
        assert "ValueError: in the log" in log.read()
    one.client.close()
    one.wait_for_end()


def test_killing_a_worker_that_is_not_there_is_no_error(start: Start) -> None:
    one = start(sleep)
    one.client.kill(new_process_id(NODE))
    one.client.fork(worker := new_process_id(NODE))
    one.client.kill(worker)
    assert one.exits(1) == [Exited(worker, "killed by SIGKILL")]
    one.client.close()
    one.wait_for_end()


def end(one: Started, how: str) -> None:
    """By what it is tied to, or by a signal; and nothing of it is left."""
    if how == "raylet's socket":
        one.client.close()
    elif how == "lifeline":
        os.close(one.lifeline_end)
        one.lifeline_end = os.dup(one.lifeline)
    else:
        os.kill(one.pid, signal.Signals[how])
    one.wait_for_end()


@pytest.mark.parametrize("how", ["raylet's socket", "lifeline", "SIGTERM", "SIGKILL"])
def test_workers_end_with_the_zygote_whatever_ends_it(start: Start, how: str) -> None:
    def deaf(_: NodeConfig, __: ProcessId, be_wanted: Wanted) -> None:
        be_wanted()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)  # longer than a test may take: `wait_for_end` is not for their own end

    one = start(deaf)
    for _ in range(3):
        one.client.fork(new_process_id(NODE))
    for _ in range(3):
        assert select.select([one.socket], [], [], LIMIT_S)[0]
        assert one.socket.recv(zygote.REPORT.size)
    end(one, how)


@pytest.mark.parametrize("how", ["raylet's socket", "lifeline", "SIGTERM", "SIGKILL"])
def test_the_spare_worker_ends_with_the_zygote_too(start: Start, how: str) -> None:
    one = start(note_and_sleep)
    one.client.fork(a_worker(1))
    noted(one, "begun", 2)
    end(one, how)


def test_the_next_worker_is_the_one_that_was_forked_ahead(start: Start) -> None:
    one = start(note_and_sleep)
    one.client.fork(a_worker(8))
    spare = noted(one, "begun", 9)
    assert not os.path.exists(one.config.log_path(f"worker-{a_worker(9)[8:].hex()}"))

    one.client.fork(a_worker(9))

    assert noted(one, "wanted", 9) == spare
    assert one.exits(1) == [Exited(a_worker(9), "exit code 0")]
    noted(one, "begun", 10)  # and another is
    one.client.close()
    one.wait_for_end()


def test_a_spare_worker_that_was_killed_is_missed_by_nobody(start: Start) -> None:
    one = start(note_and_sleep)
    one.client.fork(a_worker(8))
    spare = noted(one, "begun", 9)
    os.kill(spare, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{spare}"), "it was reaped", LIMIT_S)

    one.client.fork(a_worker(9))

    assert noted(one, "wanted", 9) != spare
    assert one.exits(1) == [Exited(a_worker(9), "exit code 0")]
    one.client.close()
    one.wait_for_end()


def test_a_spare_worker_of_another_id_than_is_wanted_ends(start: Start) -> None:
    one = start(note_and_sleep)
    one.client.fork(a_worker(1))
    spare = noted(one, "begun", 2)

    one.client.fork(a_worker(9))

    assert one.exits(1) == [Exited(a_worker(9), "exit code 0")]
    wait_until(lambda: not os.path.exists(f"/proc/{spare}"), "it was reaped", LIMIT_S)
    one.client.close()
    one.wait_for_end()


def test_raylet_hears_that_the_zygote_is_gone(start: Start) -> None:
    one = start(sleep)
    os.kill(one.pid, signal.SIGKILL)
    with pytest.raises(ZygoteGone):
        one.exits(1)
    one.wait_for_end()


def test_what_a_worker_started_ends_with_it(start: Start) -> None:
    def leave_a_child(_: NodeConfig, __: ProcessId, be_wanted: Wanted) -> None:
        be_wanted()
        subprocess.Popen(["sleep", "60"]).returncode = 0

    one = start(leave_a_child)
    one.client.fork(worker := new_process_id(NODE))
    assert one.exits(1) == [Exited(worker, "exit code 0")]
    one.client.close()
    one.wait_for_end()  # which the sleep, were it alive, would not hold up: what shows it is the leak check


def test_workers_draw_different_random_numbers(start: Start) -> None:
    def draw(config: NodeConfig, _: ProcessId, be_wanted: Wanted) -> None:
        be_wanted()
        import numpy

        with open(os.path.join(config.folder, "drawn"), "a") as file:
            file.write(f"{random.random()} {numpy.random.random()}\n")

    one = start(draw)
    for _ in range(2):
        one.client.fork(new_process_id(NODE))
    one.exits(2)
    with open(os.path.join(one.folder, "drawn")) as file:
        drawn = file.read().split()
    assert len(set(drawn)) == 4
    one.client.close()
    one.wait_for_end()


def test_worker_has_its_own_log_and_no_stdin(start: Start) -> None:
    def speak(_: NodeConfig, __: ProcessId, be_wanted: Wanted) -> None:
        be_wanted()
        print("to stdout", flush=False)  # noqa: T201
        print(repr(sys.stdin.read()), file=sys.stderr)  # noqa: T201
        os._exit(0)  # without flushing: lines are written as they end

    one = start(speak)
    one.client.fork(worker := new_process_id(NODE))
    one.exits(1)
    with open(one.config.log_path(f"worker-{worker[8:].hex()}")) as log:
        assert log.read() == "to stdout\n''\n"
    one.client.close()
    one.wait_for_end()


def test_a_raylet_never_waits_for_a_zygote_that_is_busy() -> None:
    """It would wait for ever: the zygote may be waiting for the raylet to read what became of the workers."""
    ours, its = socket.socketpair()
    with its:
        client = ZygoteClient(ours)
        asked = [new_process_id(NODE) for _ in range(10_000)]
        for worker in asked:
            client.fork(worker)
        assert client.wants_write

        heard = b""
        while len(heard) < len(asked) * zygote.REQUEST.size:
            client.flush()
            heard += its.recv(1 << 16)
        assert [ProcessId(worker) for _, worker in zygote.REQUEST.iter_unpack(heard)] == asked
        client.close()
