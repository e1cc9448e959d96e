"""The ways to reach Spark: a SparkContext in this process (`ClassicSpark`), or Spark Connect (`connect.ConnectSpark`).

What starts, plans and ends a session speaks to an `AnySpark` and does not ask which it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sparkray import spark_facts
from sparkray.executor_main import TaskResult
from sparkray.ship import ship_sparkray
from sparkray.slots import Slots
from sparkray.spark_session import has_ended

if TYPE_CHECKING:
    from pyspark import SparkContext

STOPPED_BY = "the SparkContext is stopped, by you or by its cluster's manager"
StartTask = Callable[[Any], Sequence[TaskResult]]  # takes a partition, which is of no interest


class AnySpark(Protocol):
    """What a start, a plan and a stop need of Spark."""

    @property
    def handle(self) -> Any:
        """What the user has: its `stop` ends the session first."""
        ...

    @property
    def is_remote(self) -> bool:
        """No JVM of Spark's is this process's child."""
        ...

    @property
    def same_machine(self) -> bool | None:
        """The executors are on this process's; None: the settings tell."""
        ...

    @property
    def name(self) -> str:
        """For people. Asks nobody."""
        ...

    @property
    def master(self) -> str: ...

    @property
    def stopped(self) -> bool: ...

    def settings(self) -> Mapping[str, str]: ...

    def executors(self) -> int:
        """That are there now."""
        ...

    def total_slots(self) -> int | None:
        """Of these, busy ones included; None where Spark does not say."""
        ...

    def slots(self, but: str = "") -> Slots:
        """And who holds them, the job group `but` left out."""
        ...

    def wait_for_executors(self, nodes: int, deadline: float) -> None:
        """
        Raises:
            UnfitSpark: there are fewer than `nodes` executors, or slots, when time is up.
        """
        ...

    def why_lost(self, executor_id: str) -> str | None:
        """What Spark says of an executor's end; None: nothing (yet), or the executor lives."""
        ...

    def reached_at(self, same_machine: bool) -> tuple[str, str]:
        """The address by which executors reach this process, and the one to listen on."""
        ...

    def thread(self, target: Callable[[], None]) -> threading.Thread:
        """One for `run`."""
        ...

    def run(self, group: str, what: str, tasks: int, barrier: bool, task: StartTask) -> list[TaskResult]:
        """Run so many tasks as one job, and wait for it."""
        ...

    def cancel(self, group: str) -> None:
        """End the group's jobs, their Python workers included."""
        ...

    def ship(self) -> None:
        """Send sparkray's code to executors that lack it."""
        ...


class ClassicSpark:
    """A SparkContext, whose JVM is a child of this process. The tasks are those of an RDD."""

    is_remote = False
    same_machine = None

    def __init__(self, sc: SparkContext) -> None:
        self.sc = self.handle = sc

    @property
    def name(self) -> str:
        return str(self.sc.master)

    @property
    def master(self) -> str:
        return str(self.sc.master)

    @property
    def stopped(self) -> bool:
        return has_ended(self.sc)

    def settings(self) -> Mapping[str, str]:
        return dict(self.sc.getConf().getAll())

    def executors(self) -> int:
        return spark_facts.registered_executors(self.sc)

    def total_slots(self) -> int | None:
        return spark_facts.total_slots(self.sc)

    def slots(self, but: str = "") -> Slots:
        return spark_facts.slots_of(self.sc, but)

    def wait_for_executors(self, nodes: int, deadline: float) -> None:
        spark_facts.wait_for_executors(self.sc, nodes, deadline)

    def why_lost(self, executor_id: str) -> str | None:
        if self.stopped:
            return (spark_facts.what_yarn_says(self.sc) if self.master == "yarn" else None) or STOPPED_BY
        return spark_facts.why_lost(self.sc, executor_id)

    def reached_at(self, same_machine: bool) -> tuple[str, str]:
        if same_machine:
            return "127.0.0.1", "127.0.0.1"
        pod = os.environ.get("SPARK_DRIVER_BIND_ADDRESS")  # of a driver's pod, whose name others may not resolve
        if pod is not None:
            return pod, pod
        settings = self.sc.getConf()
        host = str(settings.get("spark.driver.host"))
        return host, str(settings.get("spark.driver.bindAddress", host))

    def thread(self, target: Callable[[], None]) -> threading.Thread:
        from pyspark import InheritableThread

        # Inheritable: a job group is a property of a JVM thread, and this makes sure that ours has its own.
        return InheritableThread(target=target, daemon=True, name="sparkray-start")

    def run(self, group: str, what: str, tasks: int, barrier: bool, task: StartTask) -> list[TaskResult]:
        self.sc.setJobGroup(group, what, interruptOnCancel=True)
        numbers = self.sc.parallelize(range(tasks), tasks)
        stage: Any = numbers.barrier() if barrier else numbers
        results: list[TaskResult] = stage.mapPartitions(task).collect()
        return results

    def cancel(self, group: str) -> None:
        self.sc.cancelJobGroup(group)

    def ship(self) -> None:
        ship_sparkray(self.sc)


def spark_of(given: Any, limit_s: float) -> AnySpark:
    """
    Args:
        limit_s: for a look at the executors, where that takes a job.

    Raises:
        TypeError: it is neither a SparkContext nor a SparkSession.
    """
    from pyspark import SparkContext

    if isinstance(given, SparkContext):
        return ClassicSpark(given)
    if type(given).__module__.startswith("pyspark.sql.connect"):
        from sparkray.connect import ConnectSpark

        return ConnectSpark(given, limit_s)
    inner = getattr(given, "sparkContext", None)
    if not isinstance(inner, SparkContext):
        raise TypeError(f"RayContext takes a SparkContext or a SparkSession, not {given!r}")
    return ClassicSpark(inner)
