"""A storm in a session of `RayContext`, whose nodes live in Spark's executors: these are killed, too."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import psutil

import sparkray
from sparkray import RayContext
from sparkray.cluster import ExecutorNode
from sparkray_core.run.processes import identify
from tests.chaos.grounds import Victim, kill_all, pause
from tests.chaos.kills import Kill
from tests.waiting import wait_until

# Spark takes some seconds to start another executor, and that a Python; a node whose executor lives is followed sooner.
PER_MINUTE: Mapping[str, float] = {"worker": 16, "head": 2, "raylet": 1, "keeper": 1, "executor": 2, "pause": 2}


class SparkGround:
    """With `elastic=True`: what ends is followed by another node. The driver's own has the head, and lives."""

    per_minute: Mapping[str, float] = PER_MINUTE

    def __init__(self, context: RayContext, nodes: int) -> None:
        """
        Args:
            nodes: one in each executor, when all are there.
        """
        self._context, self._count = context, nodes
        self._ended: set[str] = set()  # that we have killed

    def _nodes(self) -> list[ExecutorNode]:
        alive = {one["NodeID"] for one in sparkray.nodes() if one["Alive"]}
        return [node for node in self._context.executors if node.node.hex() in alive and _keeper(node) is not None]

    @property
    def _own(self) -> psutil.Process:
        assert self._context._session is not None
        assert self._context._session.own is not None
        return psutil.Process(self._context._session.own.pid)

    def victim(self, kill: Kill) -> Victim | None:
        if kill.kind == "head":
            heads = _named(self._own, "head")
            return Victim(f"the driver's node, process {heads}", lambda: kill_all(heads)) if heads else None
        nodes = self._nodes()
        if kill.kind == "worker":
            workers = [(node, pid) for node in nodes for pid in _named(_keeper(node), "worker")]
            if not workers:
                return None
            node, pid = workers[kill.of(len(workers))]
            return Victim(f"{node.node.hex()}, process {pid}", lambda: kill_all([pid]))
        # Without any executor Spark's master gives an application up after some failures, and so do our limits.
        if (kill.kind != "pause" and len(nodes) < self._count) or not nodes:
            return None
        node = nodes[kill.of(len(nodes))]
        name = f"{node.node.hex()}, in executor {node.executor_id}"
        if kill.kind == "pause":
            return Victim(name, lambda: pause(_all(node)))
        pids = [node.jvm.pid] if kill.kind == "executor" else _named(_keeper(node), kill.kind)
        return Victim(f"{name}, process {pids}", lambda: self._end(node, pids))

    def _end(self, node: ExecutorNode, pids: list[int]) -> None:
        self._ended.add(node.node.hex())
        kill_all(pids)

    def buried(self) -> list[str]:
        dead = {one["NodeID"] for one in sparkray.nodes() if not one["Alive"]}
        return sorted(dead - self._ended)

    def lasting(self) -> dict[str, int]:
        return {part: pid for part in ("head", "raylet", "zygote") for pid in _named(self._own, part)}

    def wait_whole(self, limit: float) -> None:
        wait_until(lambda: len(self._nodes()) == self._count, "each executor has its node again", limit)


def _keeper(node: ExecutorNode) -> psutil.Process | None:
    return psutil.Process(node.keeper.pid) if identify(node.keeper.pid) == node.keeper else None


def _named(keeper: psutil.Process | None, part: str) -> list[int]:
    """Pids of a node's processes of this name."""
    found: list[int] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [keeper, *keeper.children(recursive=True)] if keeper is not None else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                if one.name() == f"sparkray-{part}"[:15]:
                    found.append(one.pid)
    return found


def _all(node: ExecutorNode) -> list[int]:
    keeper = _keeper(node)
    with contextlib.suppress(psutil.NoSuchProcess):
        if keeper is not None:
            return [keeper.pid, *(child.pid for child in keeper.children(recursive=True))]
    return []
