"""Asking Spark: how many executors and slots it has, who holds them, and what its errors mean."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sparkray.sizing import UnfitSpark
from sparkray.slots import Slots, SlotState

if TYPE_CHECKING:
    from pyspark import SparkContext

POLL_S = 0.05  # between two looks, while executors register
_MOST_TASKS = 1024  # of a job that looks for executors
_SHOWN_CHARACTERS = 2000  # of an error that we know nothing about


def wait_for_executors(sc: SparkContext, nodes: int, deadline: float) -> None:
    """As `wait_until_there`."""
    wait_until_there(lambda: registered_executors(sc), lambda: total_slots(sc), nodes, deadline)


@contextlib.contextmanager
def ctrl_c_is_told() -> Iterator[None]:
    """A Ctrl-C in the middle of a call to the JVM breaks that call's connection, and py4j raises the consequence."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            cause = cause.__cause__ or cause.__context__
        raise


def wait_until_there(
    executors: Callable[[], int], total: Callable[[], int | None], nodes: int, deadline: float, but: str = ""
) -> None:
    """
    Args:
        but: what to say of a count that may be too low.

    Raises:
        UnfitSpark: there are fewer than `nodes` executors, or slots, when time is up.
    """
    began = time.monotonic()
    while (there := executors()) < nodes:
        if time.monotonic() > deadline:
            raise UnfitSpark(
                f"{nodes} nodes were asked for, one to an executor, and Spark has {there} executors after "
                f"{time.monotonic() - began:.0f} s{but}: ask for fewer nodes (num_ray_nodes), give Spark more "
                f"executors, or, if they take longer to come, raise start_timeout"
            )
        time.sleep(POLL_S)
    slots = Slots(total())
    if slots.state(nodes) is SlotState.IMPOSSIBLE:
        raise UnfitSpark(slots.told(nodes))


def registered_executors(sc: SparkContext) -> int:
    """The driver, which Spark counts too, left out. Where py4j may not be asked: those that run tasks now."""
    from py4j.protocol import Py4JError

    try:
        return len(_inner(sc).statusTracker().getExecutorInfos()) - 1
    except Py4JError as error:
        if not is_refused(error):
            raise
        return _executors_with_free_slots(sc)


def is_refused(error: Exception) -> bool:
    """Some shared clusters let nobody call the JVM but PySpark's own modules, and not all of these."""
    return re.search(r"Py4JSecurityException|not (white|allow)-?listed", str(error), re.IGNORECASE) is not None


def _executors_with_free_slots(sc: SparkContext) -> int:
    """By one job of as many tasks as Spark has slots: it deals them out to all executors with a free one."""

    def where(_: object) -> list[tuple[str, int]]:  # runs where sparkray may be missing
        import os
        import socket

        return [(socket.gethostname(), os.getppid())]  # Spark's Python daemon, or the JVM: one for each executor

    tasks = min(max(sc.defaultParallelism, 2), _MOST_TASKS)
    return len(set(sc.range(0, tasks, 1, tasks).mapPartitions(where).collect()))


def _inner(sc: SparkContext) -> Any:
    """Spark's own SparkContext, in the JVM."""
    java: Any = sc._jsc
    return java.sc()


def total_slots(sc: SparkContext) -> int | None:
    """Tasks that can run at a time, busy slots included: the number that Spark itself compares a barrier stage with.
    None where Spark does not say."""
    from py4j.protocol import Py4JError

    try:
        inner = _inner(sc)
        return int(inner.maxNumConcurrentTasks(inner.resourceProfileManager().defaultResourceProfile()))
    except Py4JError:  # not public in Spark, so it may go
        return None


def slots_of(sc: SparkContext, but: str = "") -> Slots:
    """And who holds them, the job group `but` left out."""
    tracker = sc.statusTracker()
    ours = set(tracker.getJobIdsForGroup(but)) if but else set()
    held: list[tuple[int, str]] = []
    for job in tracker.getActiveJobsIds():
        facts = tracker.getJobInfo(job)
        stages = [tracker.getStageInfo(stage) for stage in (facts.stageIds if facts and job not in ours else ())]
        held += [(stage.numActiveTasks, stage.name) for stage in stages if stage and stage.numActiveTasks]
    return Slots(total_slots(sc), held)


def why_lost(sc: SparkContext, executor_id: str) -> str | None:
    """What Spark knows of an executor's end, in its own words; None: nothing (yet), or the executor lives."""
    from py4j.protocol import Py4JError

    try:
        facts = _inner(sc).statusStore().executorSummary(executor_id)
        if facts.isActive() or not facts.removeReason().isDefined():
            return None
        return str(facts.removeReason().get())
    except Py4JError as error:  # it does not know this executor, or the JVM is ending
        return "nothing: sparkray may not ask it here" if is_refused(error) else None
    except (AttributeError, OSError):
        return None


def what_yarn_says(sc: SparkContext) -> str | None:
    """Of the application's end: that somebody killed it, or how it failed. None: nothing."""
    from py4j.protocol import Py4JError

    try:
        jvm: Any = sc._jvm
        hadoop = jvm.org.apache.hadoop.yarn
        client = hadoop.client.api.YarnClient.createYarnClient()
        client.init(hadoop.conf.YarnConfiguration())
        client.start()
        try:
            application = hadoop.api.records.ApplicationId.fromString(sc.applicationId)
            return str(client.getApplicationReport(application).getDiagnostics() or "").strip() or None
        finally:
            client.stop()
    # No ResourceManager, no YARN's classes, or the JVM is ending.
    except (Py4JError, AttributeError, TypeError, OSError):
        return None


def in_one_sentence(error: str) -> str:
    """Spark's stack traces put shortly, where we know what they are about."""
    versions = re.search(r"different version:? (.*?) than that in driver:? (.*?),? PySpark", error)
    if "PYTHON_VERSION_MISMATCH" in error:
        which = f": {versions.group(1)} there, {versions.group(2)} here" if versions else ""
        return (
            f"the executors run another Python version than the driver{which}. Set PYSPARK_PYTHON, before the "
            "SparkContext is made, to a Python of the driver's version"
        )
    if "Cannot run program" in error:
        program = re.search(r'Cannot run program "([^"]*)"', error)
        return (
            f"the executors cannot run {program.group(1) if program else 'their Python'}. Set PYSPARK_PYTHON, before "
            "the SparkContext is made, to a Python that is there on every host"
        )
    if "SPARK-24819" in error:
        return "Spark has fewer slots than the barrier stage needs [SPARK-24819]: ask for fewer nodes (num_ray_nodes)"
    if "SPARK-24942" in error:
        return (
            "a barrier stage cannot run with dynamic allocation [SPARK-24942]: set "
            "spark.dynamicAllocation.enabled=false"
        )
    return f"the Spark job that starts the nodes failed: {error.strip()[:_SHOWN_CHARACTERS]}"
