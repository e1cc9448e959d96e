"""Where a storm rages: what can be killed there, and how what was killed comes back."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from sparkray.cluster_utils import Cluster, ClusterNode
from sparkray_core.settings import Settings
from tests.chaos.kills import PER_MINUTE, Kill
from tests.waiting import wait_until

FURTHER_NODES = 3
SCHEDULERS, SHARDS = 2, 2
NODE_CPUS = 2
STORE_BYTES = 24 << 20  # objects are on disk now and then
PARTS = {"worker": "workers", "head": "head", "scheduler": "schedulers", "shard": "shards"}  # a process of a node
FULL_S = 1.0
STORE_WAIT_S = 30.0  # for a disk that has room again, and on a busy machine
PAUSE_S = Settings.node_timeout_s * 0.5  # of a slow node; the rest is for a busy machine


class Victim(NamedTuple):
    name: str
    strike: Callable[[], object]  # returns when all that was killed is followed by another, or soon will be


class Ground(Protocol):
    """A session of several nodes, of which this process is the driver."""

    per_minute: Mapping[str, float]  # what is killed here, how often

    def victim(self, kill: Kill) -> Victim | None:
        """None if there is nobody just then."""

    def lasting(self) -> dict[str, int]:
        """Pids of those that live through the storm, or are followed by one of the same role, by role."""
        ...

    def wait_whole(self, limit: float) -> None:
        """Until all nodes are there again, and the session knows of the end of the others.

        Raises:
            TimeoutError, AssertionError: after so many seconds.
        """

    def buried(self) -> list[str]:
        """Nodes that nobody killed, and that are dead all the same."""
        ...


class ClusterGround:
    """Nodes of a `Cluster`. The first one has the GCS and this process, and lives: a driver ends with its node."""

    per_minute: Mapping[str, float] = PER_MINUTE

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._nodes = [self._add() for _ in range(FURTHER_NODES)]
        self._buried: list[str] = []

    def _add(self) -> ClusterNode:
        return self._cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES)

    @property
    def _head(self) -> ClusterNode:
        assert self._cluster.head_node is not None
        return self._cluster.head_node

    def victim(self, kill: Kill) -> Victim | None:
        self._follow_buried()
        if part := PARTS.get(kill.kind):
            nodes = (self._head, *self._nodes) if part == "workers" else (self._head,)
            found = [(node, pid) for node in nodes for pid in node.pids(part)]
            if not found:
                return None
            node, pid = found[kill.of(len(found))]
            number = signal.SIGSTOP if kill.hangs else signal.SIGKILL
            hangs = ", which hangs from now on" if kill.hangs else ""
            return Victim(f"{node}, process {pid}{hangs}", lambda: kill_all([pid], number))
        if kill.kind == "full":
            writers = [pid for part in ("head", "shards") for pid in self._head.pids(part)]
            writers += [pid for node in (self._head, *self._nodes) for pid in node.pids("raylet")]
            writer = writers[kill.of(len(writers))]
            return Victim(f"process {writer}", lambda: self._fill_disk(writer))
        node = self._nodes[kill.of(len(self._nodes))]
        name = f"{node}, keeper {node.pid}"
        if kill.kind == "pause":
            return Victim(name, lambda: pause(node.pids()))
        return Victim(name, lambda: self._end("all" if kill.kind == "node" else kill.kind, node))

    def _fill_disk(self, writer: int) -> None:
        """Until then no process of the GCS may die of a kill: it has nothing to go on from.

        Raises:
            ProcessLookupError: this one has died, of the full disk.
        """
        begun = self._journals_begun_anew()
        with no_space(writer):
            time.sleep(FULL_S)
        if len(list(Path(self._head.folder).glob("gcs*.sqlite"))) <= SHARDS:
            wait_until(lambda: self._journals_begun_anew() > begun, "the GCS's journal is written again", STORE_WAIT_S)

    def _journals_begun_anew(self) -> int:
        logs = Path(self._head.folder, "logs").glob("*.log")
        return sum(path.read_text(errors="replace").count("the GCS's tables are written again") for path in logs)

    def _end(self, part: str, node: ClusterNode) -> None:
        with contextlib.suppress(ProcessLookupError):  # buried a moment ago: it is on its way out by itself
            self._cluster.kill(node, part)
        self._follow(node)

    def _follow(self, node: ClusterNode) -> None:
        self._nodes[self._nodes.index(node)] = self._add()
        self._cluster.remove_node(node)

    def _follow_buried(self) -> None:
        """On a busy machine a pause may be too long for a node."""
        for node in [node for node in self._nodes if not node.is_running()]:
            self._buried.append(str(node))
            self._follow(node)

    def buried(self) -> list[str]:
        return self._buried

    def lasting(self) -> dict[str, int]:
        return {part: pid for part in ("head", "raylet", "zygote") for pid in self._head.pids(part)}

    def wait_whole(self, limit: float) -> None:
        self._follow_buried()
        self._cluster.wait_for_nodes(limit)


def kill_all(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def no_space(pid: int) -> Iterator[None]:
    """It cannot make any file larger than nothing, nor write to one that is."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def pause(pids: list[int]) -> None:
    """They stand still, and then go on."""
    kill_all(pids, signal.SIGSTOP)
    time.sleep(PAUSE_S)
    kill_all(pids, signal.SIGCONT)
