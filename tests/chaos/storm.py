"""A session of several nodes in which loads run while its processes are killed."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import sparkray
from sparkray.cluster_utils import Cluster, ClusterNode
from sparkray.util import state
from sparkray_core.settings import Settings
from tests.chaos.kills import Kill
from tests.chaos.loads import LIMIT_S, LOADS, Load
from tests.chaos.memory import MemoryWatch

FURTHER_NODES = 3
NODE_CPUS = 2
STORE_BYTES = 128 << 20
PAUSE_S = Settings.node_timeout_s * 0.5  # of a slow node; the rest is for a busy machine
_SAMPLE_S = 1.0


@dataclass(frozen=True)
class Summary:
    """Of a run in which nothing failed."""

    seed: int
    seconds: float
    kills: Counter[str]
    missed: Counter[str]  # kills for which there was no victim just then
    verified: dict[str, int]  # answers, by load
    memory: dict[str, tuple[int, int]]
    grown: list[str]

    def __str__(self) -> str:
        kills = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.kills.items())) or "none"
        missed = f" (no victim for {sum(self.missed.values())} more)" if self.missed else ""
        answers = ", ".join(f"{name} {count}" for name, count in self.verified.items())
        memory = ", ".join(
            f"{role} {before / 2**20:.0f} -> {after / 2**20:.0f}" for role, (before, after) in self.memory.items()
        )
        return (
            f"chaos with seed {self.seed}: {self.seconds:.0f} s; kills: {kills}{missed}; "
            f"{sum(self.verified.values())} answers verified ({answers}); MiB: {memory}"
        )


class Storm:
    """One run. This process is the driver; its node has the head, and lives: a driver ends with its node."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._nodes = [self._add() for _ in range(FURTHER_NODES)]
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._memory = MemoryWatch()
        self._next_sample = 0.0
        self._killed: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()
        self.story: list[str] = []  # what was killed when

    def _add(self) -> ClusterNode:
        return self._cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES)

    def run(self, seed: int, seconds: float, kills: list[Kill]) -> Summary:
        """
        Raises:
            WrongAnswerError, HangsError: or what else a load has met first. What was killed before is printed.
        """
        loads = [make(seed) for make in LOADS]
        began = time.monotonic()
        try:
            with self._running(loads):
                for kill in kills:
                    if not self._wait(began + kill.at):
                        break
                    self._do(kill, time.monotonic() - began)
                self._wait(began + seconds)
            took = time.monotonic() - began
            if self._failures:
                raise self._failures[0]
            verified = {load.name: load.verified for load in loads}
            assert all(verified.values()), f"a load that did nothing shows nothing: {verified}"
            self._failures.clear()
            loads.clear()
            self._settled()
        except BaseException as error:
            sys.stdout.write("\n  ".join([f"killed, by seed {seed}:", *self.story, ""]))
            raise error
        return Summary(seed, took, self._killed, self._missed, verified, self._memory.quarters(), self._memory.grown())

    @contextlib.contextmanager
    def _running(self, loads: list[Load]) -> Iterator[None]:
        threads = [threading.Thread(target=self._drive, args=(load,), name=load.name) for load in loads]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(4 * LIMIT_S)  # each of its waits has a limit
            if late := [thread.name for thread in threads if thread.is_alive()]:
                self._failures.append(AssertionError(f"these loads do not end: {', '.join(late)}"))

    def _drive(self, load: Load) -> None:
        try:
            while not self._stop.is_set():
                load.round()
                load.rounds += 1
        except BaseException as error:  # noqa: BLE001 - the run fails with it
            self._failures.append(error)
            self._stop.set()

    def _wait(self, until: float) -> bool:
        """Until that moment, with a look at memory each second; False if a load has failed before."""
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= self._next_sample:
                self._sample()
                self._next_sample = now + _SAMPLE_S
            if now >= until:
                return True
            self._stop.wait(min(until, self._next_sample) - now)
        return False

    def _sample(self) -> None:
        head_node = self._cluster.head_node
        assert head_node is not None
        pids = {part: pid for part in ("head", "raylet", "zygote") for pid in head_node.pids(part)}
        self._memory.sample({"driver": os.getpid(), **pids})

    def _do(self, kill: Kill, now: float) -> None:
        head_node = self._cluster.head_node
        assert head_node is not None
        victims: list[tuple[ClusterNode, int]] = []
        if kill.kind == "worker":
            victims = [(node, pid) for node in (head_node, *self._nodes) for pid in node.pids("workers")]
        elif kill.kind == "head":
            victims = [(head_node, pid) for pid in head_node.pids("head")]
        else:
            victims = [(node, node.pid) for node in self._nodes]
        if not victims:
            self._missed[kill.kind] += 1
            return
        node, pid = victims[kill.of(len(victims))]
        self.story.append(f"{now:6.1f} s: {kill.kind} of {node}, process {pid}")
        self._killed[kill.kind] += 1
        if kill.kind in ("worker", "head"):
            _kill(pid)
            return
        if kill.kind == "pause":
            node.send_signal(signal.SIGSTOP)
            time.sleep(PAUSE_S)
            node.send_signal(signal.SIGCONT)
            return
        self._cluster.kill(node, "all" if kill.kind == "node" else "raylet")
        self._nodes[self._nodes.index(node)] = self._add()
        self._cluster.remove_node(node)

    def _settled(self) -> None:
        """All that was taken is given back: CPUs, and the objects that nobody refers to any more."""
        self._cluster.wait_for_nodes(LIMIT_S)

        settle("resources are taken", _taken)
        settle("objects are left", state.list_objects)


def settle(what: str, left: Callable[[], Collection[object]]) -> None:
    """Wait until nothing is left, and else tell what is."""
    deadline = time.monotonic() + LIMIT_S
    while found := left():
        assert time.monotonic() < deadline, f"{LIMIT_S:g} s after all references have gone, {what}: {found}"
        gc.collect()
        time.sleep(0.05)


def _taken() -> list[str]:
    free = sparkray.available_resources()
    return [
        f"{name}: {free.get(name, 0.0)} of {amount} free"
        for name, amount in sparkray.cluster_resources().items()
        if abs(free.get(name, 0.0) - amount) > 1e-6
    ]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
