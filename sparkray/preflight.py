"""Before anything is started: what Spark has, what would be started in it, and whether that can be."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

from sparkray.executor_main import measure_host
from sparkray.sizing import (
    NodePlan,
    NoExecutorYet,
    Spark,
    UnfitSpark,
    Wishes,
    is_local,
    plan,
    show_bytes,
    store_bytes_on,
)
from sparkray.slots import Slots, SlotState
from sparkray.sparks import AnySpark

STOPPED = (
    "this SparkContext is stopped, by you or by its cluster's manager (or this session of Spark Connect is): make a "
    "new one, and a new RayContext"
)


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What `RayContext.init()` would do now. `str` shows it to people."""

    master: str
    nodes: NodePlan
    executors: int  # that are registered
    slots: Slots | None  # None in local mode, where no task is needed for the start
    own_store_bytes: int  # of the driver's node; in local mode of the only one
    start_timeout: float
    python: str

    def __str__(self) -> str:
        nodes = self.nodes
        how = "by one barrier stage" if nodes.barrier else "as Spark has them; the head is the driver's"
        where = "the driver" if nodes.in_driver else f"{_count(nodes.nodes, 'executor')}, {how}"
        cores = "those of its host" if nodes.cores is None else nodes.cores
        store = self.own_store_bytes if nodes.in_driver else nodes.store_bytes
        lines = {
            "master": self.master,
            "nodes": f"{nodes.nodes}, started in {where}",
            "executors": "the driver is the only one" if nodes.in_driver else f"{self.executors} there",
            "CPUs of a node": f"{cores}, shared with Spark's tasks",
            "object store": "a share of its host's memory" if store is None else f"{show_bytes(store)} on each node",
            "container": self._container(),
            "slots": self._slots(),
            "driver": "" if nodes.in_driver else f"a node without CPUs, store of {show_bytes(self.own_store_bytes)}",
            "Python": self.python,
            "start_timeout": f"{self.start_timeout:g} s",
        }
        shown = [f"{name + ':':<16}{text}" for name, text in lines.items() if text]
        return "\n".join([*shown, *(f"note: {note}" for note in nodes.notes)])

    def _slots(self) -> str:
        if self.slots is None:
            return ""
        if self.executors < self.nodes.nodes:
            return f"{self.slots.total or 0} there, {self.nodes.nodes - self.executors} more executors are waited for"
        return self.slots.told(self.nodes.nodes)

    def _container(self) -> str:
        found = self.nodes.container
        if found is None:
            return ""
        parts = {"heap": found.heap, "overhead": found.overhead, "Python": found.python, "off-heap": found.off_heap}
        shown = " + ".join(f"{name} {show_bytes(size)}" for name, size in parts.items() if size)
        return f"{show_bytes(found.total)} = {shown}; {show_bytes(found.room)} of it for store and workers"


def look(
    spark: AnySpark, wishes: Wishes, start_timeout: float, store_share: float, elastic: bool = False
) -> LaunchPlan:
    """Ask Spark; nothing is waited for.

    Args:
        elastic: without a barrier stage, though there could be one.

    Raises:
        UnfitSpark: this Spark cannot host the nodes; the sentence says what to set.
        NoExecutorYet: none is there, and no setting tells how many there will be.
    """
    if spark.stopped:
        raise UnfitSpark(STOPPED)
    master, settings, host = spark.master, spark.settings(), measure_host()
    slots: Slots | None = None
    executors = 0
    if spark.is_remote or not is_local(master):
        slots, executors = spark.slots(), spark.executors()
    total = slots.total or 0 if slots else 0
    nodes = plan(Spark(master, settings, executors, total, spark.is_remote, spark.same_machine), host, wishes)
    if elastic and not nodes.in_driver:
        nodes = replace(nodes, barrier=False)
    if spark.is_remote and not nodes.barrier:
        raise UnfitSpark(
            "over Spark Connect nobody tells which executors come and go, and Spark runs no barrier stage with dynamic "
            "allocation: start the server with spark.dynamicAllocation.enabled=false, and leave elastic=False"
        )
    if slots is not None and executors >= nodes.nodes and slots.state(nodes.nodes) is SlotState.IMPOSSIBLE:
        raise UnfitSpark(slots.told(nodes.nodes))
    stores = nodes.nodes + 1 if nodes.same_machine and not nodes.in_driver else 1
    own = store_bytes_on(host, stores, nodes.store_bytes, store_share)
    return LaunchPlan(master, nodes, executors, slots, own, start_timeout, platform.python_version())


def look_or_wait(
    spark: AnySpark, wishes: Wishes, start_timeout: float, store_share: float, deadline: float, elastic: bool = False
) -> LaunchPlan:
    """As `look`, but the first executor is waited for where that tells how many nodes there are to be."""
    try:
        return look(spark, wishes, start_timeout, store_share, elastic)
    except NoExecutorYet:
        spark.wait_for_executors(1, deadline)
        return look(spark, wishes, start_timeout, store_share, elastic)


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"
