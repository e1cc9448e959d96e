"""How much memory is in use: of cgroups of both versions, of the machine; and when the monitor tells of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparkray_core.model.events import MemoryRead
from sparkray_core.run.loop import Loop
from sparkray_core.run.memory import (
    Cgroup,
    Machine,
    MemoryMonitor,
    Source,
    Usage,
    WatchedContainer,
    cgroups,
    nearest,
    own_bytes,
    with_descendants,
)
from sparkray_core.settings import Settings
from sparkray_core.testing.builders import a_node, register_workers

MIB = 1 << 20


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def proc(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "cgroup"
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def test_version_2_counts_the_tightest_of_a_cgroup_and_those_above_it(tmp_path: Path) -> None:
    mounted = tmp_path / "fs"
    stat = f"anon 1\ninactive_file {10 * MIB}\nactive_file {5 * MIB}\nshmem 7\n"
    write(mounted, memory_stat=stat)  # the root has no limit
    write(mounted / "pod", memory_max=f"{200 * MIB}\n", memory_current=f"{165 * MIB}\n", memory_stat=stat)
    write(mounted / "pod" / "container", memory_max="max\n", memory_current=f"{100 * MIB}\n", memory_stat=stat)

    found = cgroups(proc(tmp_path, "0::/pod/container"), str(mounted))

    assert nearest(found) == Usage(150 * MIB, 200 * MIB)
    write(mounted / "pod" / "container", memory_max=f"{90 * MIB}", memory_current=f"{100 * MIB}")
    assert nearest(found) == Usage(85 * MIB, 90 * MIB)  # limits change while we run


def test_version_1_in_a_container_that_sees_its_own_cgroup_as_the_root(tmp_path: Path) -> None:
    mounted = tmp_path / "fs"
    limit, usage = f"{100 * MIB}\n", f"{60 * MIB}\n"
    files = {"memory_limit_in_bytes": limit, "memory_usage_in_bytes": usage}
    write(mounted / "memory", **files, memory_stat=f"cache 9\ntotal_inactive_file {MIB}\ntotal_active_file {MIB}\n")
    write(mounted / "memory", memory_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")

    found = cgroups(proc(tmp_path, "9:cpu:/x", "4:memory:/docker/0123", "0::/"), str(mounted))

    assert nearest(found) == Usage(58 * MIB, 100 * MIB)
    assert [cgroup.kills() for cgroup in found] == [3]


def test_version_1_without_a_limit_sets_none(tmp_path: Path) -> None:
    mounted = tmp_path / "fs"
    write(mounted / "memory", memory_limit_in_bytes="9223372036854771712", memory_usage_in_bytes="5", memory_stat="")
    assert nearest(cgroups(proc(tmp_path, "4:memory:/"), str(mounted))) is None


def test_without_cgroups_the_machine_counts(tmp_path: Path) -> None:
    assert cgroups(str(tmp_path / "none"), str(tmp_path)) == []
    usage = Machine().read()
    assert usage is not None
    assert 0 < usage.used < usage.limit


def test_own_bytes_of_a_process() -> None:
    before = own_bytes(os.getpid())
    data = bytearray(os.urandom(MIB) * 40)
    assert own_bytes(os.getpid()) - before > 35 * MIB
    del data
    assert own_bytes(2**22 + 1) == 0  # above any pid


def test_a_container_counts_all_below_its_roots_once_and_what_they_share() -> None:
    """The child's child hangs on a thread that is not its process's first."""
    middle = (
        "import subprocess, sys, threading\n"
        "def run(): subprocess.run([sys.executable, '-c', sys.argv[1]], stdin=sys.stdin)\n"
        "threading.Thread(target=run).start()"
    )
    inner = "import os; held = bytearray(os.urandom(1 << 20) * 60); print('held', flush=True); input()"
    command = [sys.executable, "-c", middle, inner]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        alone = WatchedContainer(100, (child.pid,), lambda: 7).read()
        also_below = WatchedContainer(100, (child.pid, *with_descendants((child.pid,))), lambda: 7).read()
        child.stdin.write(b"\n")
    assert alone.limit == 100
    assert 60 * MIB < alone.used < 120 * MIB
    assert abs(alone.used - also_below.used) < MIB
    assert WatchedContainer(100, (child.pid,), lambda: 7).read() == Usage(7, 100)  # gone


def test_a_container_is_counted_as_by_who_watches_it_where_that_is_more() -> None:
    """Who looks below the first root only, and counts what two processes share twice."""
    code = (
        "import mmap, os\n"
        "held = mmap.mmap(-1, 60 << 20); held[:] = bytes(60 << 20)\n"
        "reads, tells = os.pipe()\n"
        "if not os.fork(): len(held[:]); os.write(tells, b'x'); input()\n"
        "else: os.read(reads, 1); print('held', flush=True); os.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        theirs = WatchedContainer(100, (child.pid,), lambda: 60 * MIB).read().used
        only_own = sum(map(own_bytes, with_descendants((child.pid,))))
        child.stdin.write(b"\n")
    assert only_own < 60 * MIB
    assert theirs > 120 * MIB


class Fake:
    def __init__(self) -> None:
        self.usage = Usage(10, 100)
        self.reads = 0

    def read(self) -> Usage | None:
        self.reads += 1
        return self.usage


class Bench:
    def __init__(self, settings: Settings) -> None:
        self.now = 0.0
        self.source = Fake()
        self.loop = Loop(lambda: self.now)
        self.node = a_node("a", CPU=1)
        register_workers(self.node, self.node.start(0.0), 0.0)
        self.told: list[Any] = []
        sources: list[Source] = [self.source]
        self.monitor = MemoryMonitor(self.loop, settings, self.node, self._tell, sources)
        self.monitor.start()

    def _tell(self, event: Any) -> None:
        self.told.append(event)
        self.node.handle(event, self.now)

    def run(self, seconds: float) -> int:
        """How often it looked."""
        before = self.source.reads
        until = self.now + seconds
        timer = self.monitor._timer
        while timer.at <= until:
            self.now, timer.at = timer.at, float("inf")
            timer.on_ring()
        self.now = until
        return self.source.reads - before


def test_it_looks_seldom_while_there_is_plenty_and_often_when_it_gets_scarce() -> None:
    bench = Bench(Settings())
    assert bench.run(10.0) == 10
    bench.source.usage = Usage(80, 100)
    bench.run(1.0)
    assert bench.run(10.0) == 40
    assert bench.told == []


def test_it_tells_the_model_above_the_threshold_and_until_it_is_over() -> None:
    bench = Bench(Settings())
    bench.source.usage = Usage(96, 100)
    bench.run(1.0)
    assert bench.told
    assert bench.told[0].used == 96
    assert len(bench.told[0].workers) == 1
    assert bench.node.claims.short_of_memory
    bench.source.usage = Usage(50, 100)
    bench.run(1.0)
    assert bench.told[-1] == MemoryRead(50, 100, {})
    assert not bench.node.claims.short_of_memory
    told = len(bench.told)
    bench.run(5.0)
    assert len(bench.told) == told


def test_it_warns_once_when_memory_gets_short_and_of_each_worker_that_is_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(Settings())
    bench.source.usage = Usage(96 * MIB, 100 * MIB)
    bench.run(20.0)
    bench.source.usage = Usage(50 * MIB, 100 * MIB)
    bench.run(20.0)
    assert [record.getMessage() for record in caplog.records] == ["memory: 96 of 100 MiB are in use"]
    bench.monitor._container = WatchedContainer(1, (os.getpid(),), lambda: 0)
    bench.source.usage = Usage(97 * MIB, 100 * MIB)
    bench.run(2.0)
    assert re.fullmatch(
        rf"memory: 97 of 100 MiB are in use. The container's largest: .* \(pid {os.getpid()}\) [0-9]+ MiB",
        caplog.records[1].getMessage(),
    )
    (worker,) = bench.node.workers.all.values()
    bench._tell = lambda event: bench.node.workers.kill(worker, "to save memory", bench.now)  # type: ignore[method-assign]
    bench.monitor._tell = bench._tell
    worker.for_memory = True
    bench.run(1.0)
    assert [record.getMessage() for record in caplog.records[3:]] == ["to save memory"]


def test_a_threshold_of_zero_turns_it_off() -> None:
    bench = Bench(Settings(memory_threshold=0.0))
    assert bench.run(100.0) == 0


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory", os.W_OK), reason="no cgroup can be made here")
def test_a_real_cgroup_is_read() -> None:
    folder = f"/sys/fs/cgroup/memory/sparkray-test-{os.getpid()}"
    os.mkdir(folder)
    try:
        with open(f"{folder}/memory.limit_in_bytes", "w") as file:
            file.write(str(64 * MIB))
        names = "memory.usage_in_bytes", "memory.limit_in_bytes", ("total_inactive_file",), "memory.oom_control"
        usage = Cgroup(folder, *names).read()
        assert usage is not None
        assert usage.limit == 64 * MIB
    finally:
        os.rmdir(folder)
