"""Identity, ties, forking and ending of processes, with real ones."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from sparkray_core.run import processes
from tests.waiting import wait_until


def sleeper() -> int:
    return processes.fork(time.sleep, 60)


def identity_of(pid: int) -> processes.Identity:
    found = processes.identify(pid)
    assert found is not None
    return found


@pytest.fixture(params=[True, False], ids=["linux", "fallback"])
def linux(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With false, as on a system without /proc, pidfd and prctl."""
    if not request.param:
        monkeypatch.setattr(processes, "LINUX", False)
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    elif sys.platform != "linux":
        pytest.skip("not Linux")
    return bool(request.param)


def test_a_pid_used_again_is_another_process(linux: bool) -> None:
    me = identity_of(os.getpid())

    assert processes.is_alive(me)
    assert not processes.is_alive(me._replace(start=me.start - 1))


def test_an_unreaped_process_is_dead(linux: bool) -> None:
    child = sleeper()
    identity = identity_of(child)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: not processes.is_alive(identity), "the zombie counts as dead")
    os.waitpid(child, 0)
    assert processes.identify(child) is None


def test_watch_tells_of_the_end(linux: bool) -> None:
    child = sleeper()
    identity = identity_of(child)
    descriptor = processes.watch(identity)
    assert (descriptor is not None) == linux
    os.kill(child, signal.SIGKILL)
    if descriptor is not None:
        assert select.select([descriptor], [], [], 5)[0]
        os.close(descriptor)
    os.waitpid(child, 0)
    with pytest.raises(ProcessLookupError):
        processes.watch(identity)


def test_watch_refuses_a_successor_with_the_same_pid(linux: bool) -> None:
    me = identity_of(os.getpid())

    with pytest.raises(ProcessLookupError):
        processes.watch(me._replace(start=me.start - 1))


def test_child_dies_with_its_parent() -> None:
    if sys.platform != "linux":
        pytest.skip("needs PR_SET_PDEATHSIG")
    read, write = os.pipe()

    def parent() -> None:
        def child(its_parent: int) -> None:
            processes.die_with_parent(signal.SIGKILL, its_parent)
            os.write(write, b"r")
            time.sleep(60)

        processes.fork(child, os.getpid(), close=[read])
        time.sleep(60)

    pid = processes.fork(parent)
    os.close(write)
    assert os.read(read, 1) == b"r"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert os.read(read, 1) == b"", "the grandchild held the pipe until it died"
    os.close(read)


def test_child_whose_parent_died_before_it_asked_dies_too() -> None:
    pid = processes.fork(processes.die_with_parent, signal.SIGTERM, 1)  # not its parent (nor is the test pid 1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


def test_fork_never_returns_in_the_child_and_exits_with_what_main_says(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("seen in stderr")

    mains: dict[str, Callable[[], object]] = {
        "returned": lambda: 5,
        "left": lambda: sys.exit(7),
        "left with words": lambda: sys.exit("oh"),
        "failed": fail,
    }
    codes = {}
    for name, main in mains.items():
        pid = processes.fork(main)
        codes[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert codes == {"returned": 0, "left": 7, "left with words": 1, "failed": 1}
    assert "ValueError: seen in stderr" in capfd.readouterr().err


def test_forked_child_has_default_signal_handlers_and_not_what_it_was_to_close() -> None:
    seen: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    read, write = os.pipe()
    try:

        def child() -> None:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(read)

        pid = processes.fork(child, close=[read])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        signal.signal(signal.SIGTERM, previous)
        os.close(read)
        os.close(write)


def test_end_tree_kills_what_does_not_listen() -> None:
    read, write = os.pipe()

    def deaf() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(write, b"d")
        time.sleep(60)

    children = [sleeper(), processes.fork(deaf)]
    assert os.read(read, 1) == b"d"
    began = time.monotonic()
    processes.end_tree(children, grace=0.2)
    assert time.monotonic() - began >= 0.2
    os.close(read)
    os.close(write)

    for pid in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)


def test_end_tree_of_the_obedient_does_not_wait() -> None:
    processes.end_tree([sleeper()], grace=3600)


def test_end_tree_finds_adopted_grandchildren() -> None:
    """Run in a process of its own: the test's must not become a subreaper."""
    if sys.platform != "linux":
        pytest.skip("needs PR_SET_CHILD_SUBREAPER")
    script = """
import os, subprocess, sys, time
from sparkray_core.run import processes
processes.adopt_orphans()
def middle():
    inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    os.write(write, b"%d " % inner.pid)
    inner.returncode = 0
    time.sleep(60)
read, write = os.pipe()
child = processes.fork(middle)
orphan = int(os.read(read, 100))
processes.end_tree([child], 1)
assert processes.identify(orphan) is None
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)


def test_reap_with_groups_kills_what_a_leader_left_in_its_group() -> None:
    read, write = os.pipe()

    def leader() -> None:
        os.setpgid(0, 0)
        subprocess.Popen(["sleep", "60"], pass_fds=[write]).returncode = 0

    pid = processes.fork(leader, close=[read])
    os.close(write)
    ended: list[tuple[int, int]] = []

    def has_ended() -> bool:
        ended.extend(processes.reap(groups=True))
        return bool(ended)

    wait_until(has_ended, "the leader ended")
    assert ended == [(pid, 0)]
    assert os.read(read, 1) == b"", "the sleeper held the pipe until it was killed"
    os.close(read)


def test_words_for_exits() -> None:
    assert processes.exit_in_words(1) == "exit code 1"
    assert processes.exit_in_words(-9) == "killed by SIGKILL"
    assert processes.exit_in_words(-40) == "killed by signal 40"


def test_environment_of_a_spark_worker_is_scrubbed() -> None:
    environment = {
        "PATH": "/bin",
        "SPARK_HOME": "/spark",
        "HADOOP_TOKEN_FILE_LOCATION": "/tokens",
        "OMP_NUM_THREADS": "1",
        "PYTHON_WORKER_FACTORY_SECRET": "s",
        "PYTHON_WORKER_FACTORY_PORT": "1",
        "PYSPARK_GATEWAY_SECRET": "s",
        "_SPARK_AUTH_SECRET": "s",
        "SPARK_CONNECT_AUTHENTICATE_TOKEN": "s",
    }

    assert processes.scrub_environment(environment) == {
        "PATH": "/bin",
        "SPARK_HOME": "/spark",
        "HADOOP_TOKEN_FILE_LOCATION": "/tokens",
    }


def test_a_user_keeps_his_own_thread_count() -> None:
    assert processes.scrub_environment({"OMP_NUM_THREADS": "3"}) == {"OMP_NUM_THREADS": "3"}
