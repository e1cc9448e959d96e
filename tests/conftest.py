"""After every test nothing of it may be left: no process, folder, shared memory, thread or socket."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Hooks of this run, too.
from tests.clusters import pytest_terminal_summary as pytest_terminal_summary
from tests.left import Left, LeftBehind
from tests.turns import pytest_collection_modifyitems as pytest_collection_modifyitems
from tests.turns import pytest_xdist_make_scheduler as pytest_xdist_make_scheduler

LIMIT_S = 20.0  # for what ends by itself once the test is over
RUN_MARK = f"SPARKRAY_TEST_RUN={os.getpid()}-{time.time_ns()}"
BASE_FOLDER = Path(f"/tmp/sparkray-{os.getuid()}-tests-{os.getpid()}")


_SPAWNS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})
_spawned = 0  # processes started by this one, so far. Looking for them costs 5 ms, which most tests can be spared


def _note_spawns(event: str, _: object) -> None:
    global _spawned
    if event in _SPAWNS:
        _spawned += 1


def pytest_configure() -> None:
    """Mark every process that descends from this run, and give their folders a place of their own."""
    sys.addaudithook(_note_spawns)
    # A shell starts background jobs with SIGINT ignored, and then there is no Ctrl-C to be tested.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    name, _, value = RUN_MARK.partition("=")
    os.environ[name] = value
    os.environ["SPARKRAY_BASE_FOLDER"] = str(BASE_FOLDER)
    os.environ["SPARKRAY_OBJECT_STORE_WARM_BYTES"] = str(4 << 20)  # 320 MB for each of hundreds of sessions take time


def pytest_unconfigure() -> None:
    with contextlib.suppress(OSError):
        BASE_FOLDER.rmdir()
    shutil.rmtree(BASE_FOLDER, ignore_errors=True)


@dataclass(frozen=True)
class Found:
    """What is there now. `processes` gives each one's parent too, to tell whose child it is."""

    processes: dict[int, tuple[int, str]]
    folders: frozenset[str]
    shared_memory: frozenset[str]
    threads: frozenset[threading.Thread]
    sockets: int

    @classmethod
    def now(cls) -> Found:
        return cls(
            _processes() if _spawned else {},
            frozenset(str(path) for path in BASE_FOLDER.glob("*/*")),
            frozenset(path.name for path in Path("/dev/shm").glob("sparkray*")),
            frozenset(thread for thread in threading.enumerate() if not thread.daemon),
            _sockets(),
        )

    def beyond(self, before: Found) -> Left:
        """What there is more than before. What belongs to a process of before (a fixture's node) is its own affair."""
        left = [
            ("process", f"{pid}: {command}")
            for pid, (_, command) in self.processes.items()
            if not self._descends(pid, before.processes)
        ]
        left += [("folder", path) for path in self.folders - before.folders]
        left += [("shared memory", f"/dev/shm/{name}") for name in self.shared_memory - before.shared_memory]
        left += [("thread", thread.name) for thread in self.threads - before.threads if thread.is_alive()]
        if self.sockets > before.sockets and not before.processes:
            left += [("socket", "of this process")] * (self.sockets - before.sockets)
        return Left(left)

    def _descends(self, pid: int, before: dict[int, tuple[int, str]]) -> bool:
        while pid in self.processes:
            if pid in before:
                return True
            pid = self.processes[pid][0]
        return False


def _processes() -> dict[int, tuple[int, str]]:
    """Processes that were started by this run, wherever they hang in the tree now: pid -> (parent, command)."""
    mark = RUN_MARK.encode()
    found = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                command = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                name = Path("/proc", entry, "comm").read_text().strip()
                if fields[0] != "Z":
                    found[int(entry)] = (int(fields[1]), f"{name}: {command[:200]}")
    return found


def _sockets() -> int:
    count = 0
    for entry in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            count += stat.S_ISSOCK(os.fstat(int(entry)).st_mode)
    return count


@pytest.fixture(autouse=True)
def left_behind() -> Iterator[LeftBehind]:
    """Nothing may be. A test that wants to know before its end calls this: what is left after a wait for its end."""
    before = Found.now()

    def left() -> Left:
        deadline = time.monotonic() + LIMIT_S
        while True:
            found = Found.now().beyond(before)
            if not found.things or time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    yield left
    found = left()
    if found.things:
        pytest.fail(f"{LIMIT_S:g} s after the test, {found}", pytrace=False)
