"""The driver's half of the start: one barrier stage whose tasks start the nodes, and the talk with them meanwhile."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import sparkray
from sparkray.executor_main import StartOrder
from sparkray.rendezvous import Guest, Left, Rendezvous, Said
from sparkray.ship import ship_sparkray
from sparkray.sizing import NodePlan, UnfitSpark
from sparkray_core import errors
from sparkray_core.errors import RaySystemError

if TYPE_CHECKING:
    from pyspark import SparkContext

POLL_S = 0.05  # between two looks at Spark, while executors register
FAREWELL_S = 3.0  # for tasks to end their nodes once they were told to; then Spark is told to kill the tasks
_MISSING = "sparkray is missing here"
_SHOWN_CHARACTERS = 2000  # of an error of Spark

log = logging.getLogger(__name__)


class StartFailed(RaySystemError):
    """The nodes did not come up; those that did have been ended again."""


# Pickled by value, because its module is "__main__": a function of ours would be pickled by name, and the task could not
# even be read where sparkray is found only after the path was extended.
_TASK = f"""
def task(_, order, roots):
    import sys
    try:
        import sparkray.executor_main
    except ImportError:
        sys.path += [root for root in roots if root not in sys.path]
        try:
            import sparkray.executor_main
        except ImportError as error:
            raise RuntimeError(f"{_MISSING}: {{error}} ({{sys.executable}})<end>") from None
    return [sparkray.executor_main.run(order)]
"""


# ------------------------------------------------------------------------------------------ deciding
@dataclass
class Gathering:
    """Who has come, who hosts the head, who is ready. Guests are whatever the caller tells them apart by."""

    nodes: int
    here: dict[Hashable, str] = field(default_factory=dict)  # the executor's address
    ready: dict[Hashable, dict[str, Any]] = field(default_factory=dict)
    head: Hashable | None = None
    head_address: str | None = None
    failure: str | None = None  # the first; the start is over then

    @property
    def complete(self) -> bool:
        return self.failure is None and len(self.ready) == self.nodes

    def said(self, guest: Hashable, facts: dict[str, Any]) -> list[tuple[Hashable, dict[str, Any]]]:
        """What to say now, and to whom."""
        match facts["kind"]:
            case "here":
                return self._came(guest, facts)
            case "ready":
                self.ready[guest] = facts
                if guest != self.head:
                    return []
                self.head_address = facts["head_address"]
                start = {"kind": "start", "head_address": self.head_address}
                return [(other, start) for other in self.here if other != guest]
            case "failed":
                self._fail(f"on the executor at {facts['address']}: {facts['why']}")
            case other:
                self._fail(f"a task said {other!r}, which this version of sparkray does not know")
        return []

    def _came(self, guest: Hashable, facts: dict[str, Any]) -> list[tuple[Hashable, dict[str, Any]]]:
        self.here[guest] = facts["address"]
        if facts["version"] != sparkray.__version__:
            self._fail(
                f"the driver has sparkray {sparkray.__version__}, the executor at {facts['address']} has "
                f"{facts['version']}: install the same version on both"
            )
            return []
        if self.head is None:
            self.head = guest
            return [(guest, {"kind": "start", "head_address": None})]
        return [(guest, {"kind": "start", "head_address": self.head_address})] if self.head_address else []

    def left(self, guest: Hashable) -> None:
        self._fail(f"the Spark task on the executor at {self.here.get(guest, 'an unknown address')} ended too early")

    def _fail(self, why: str) -> None:
        self.failure = self.failure or why


# ------------------------------------------------------------------------------------------ doing
class BarrierJob:
    """A Spark job in a thread and job group of its own. `addresses` or `error` is there once the thread has ended."""

    def __init__(self, sc: SparkContext, group: str, tasks: int, order: StartOrder, on_end: Callable[[], None]) -> None:
        from pyspark import InheritableThread

        self.addresses: list[str] | None = None
        self.error: BaseException | None = None
        self._sc, self._group, self._tasks, self._order, self._on_end = sc, group, tasks, order, on_end
        # Inheritable: a job group is a property of a JVM thread, and this makes sure that ours has its own.
        self.thread = InheritableThread(target=self._run, daemon=True, name="sparkray-start")
        self.thread.start()

    def _run(self) -> None:
        try:
            self._sc.setJobGroup(self._group, f"sparkray: starting {self._order.nodes} nodes", interruptOnCancel=True)
            task = self._task()
            self.addresses = (
                self._sc.parallelize(range(self._tasks), self._tasks).barrier().mapPartitions(task).collect()
            )
        except BaseException as error:  # noqa: BLE001 - whatever Spark raises belongs to the thread that waits for it
            self.error = error
        finally:
            self._on_end()

    def _task(self) -> Callable[[Any], list[str]]:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(_TASK, names)
        task, order = names["task"], self._order.as_dict()
        root = os.path.dirname(os.path.dirname(os.path.abspath(sparkray.__file__)))
        core_root = os.path.dirname(os.path.dirname(os.path.abspath(errors.__file__)))
        task.__defaults__ = (order, [root, core_root] if self._order.same_machine else [])
        return task  # type: ignore[no-any-return]

    @property
    def ended(self) -> bool:
        return self.addresses is not None or self.error is not None

    def cancel(self) -> None:
        if not self.ended:
            self._sc.cancelJobGroup(self._group)


def wait_for_executors(sc: SparkContext, nodes: int, deadline: float) -> None:
    """
    Raises:
        UnfitSpark: there are fewer than `nodes` executors, or slots, when time is up.
    """
    began = time.monotonic()
    while (there := registered_executors(sc)) < nodes:
        if time.monotonic() > deadline:
            raise UnfitSpark(
                f"{nodes} nodes were asked for, one to an executor, and Spark has {there} executors after "
                f"{time.monotonic() - began:.0f} s: ask for fewer nodes (num_ray_nodes), give Spark more executors, "
                f"or, if they take longer to come, raise start_timeout"
            )
        time.sleep(POLL_S)
    slots = total_slots(sc)
    if slots is not None and slots < nodes:
        raise UnfitSpark(
            f"{nodes} nodes need a slot each to be started, and Spark's executors have {slots} in all: ask for fewer "
            "nodes (num_ray_nodes), or raise spark.executor.cores, or lower spark.task.cpus"
        )


def registered_executors(sc: SparkContext) -> int:
    """The driver, which Spark counts too, left out."""
    return len(sc._jsc.sc().statusTracker().getExecutorInfos()) - 1


def total_slots(sc: SparkContext) -> int | None:
    """Tasks that can run at a time, busy slots included: the number that Spark itself compares a barrier stage with.
    None where Spark does not say."""
    from py4j.protocol import Py4JError

    try:
        inner = sc._jsc.sc()
        return int(inner.maxNumConcurrentTasks(inner.resourceProfileManager().defaultResourceProfile()))
    except Py4JError:  # not public in Spark, so it may go
        return None


def launch(
    sc: SparkContext,
    plan: NodePlan,
    order: StartOrder,
    rendezvous: Rendezvous,
    deadline: float,
    on_head: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Start the nodes; returns what each said when it was ready. The stage has ended by then, its slots are free.

    Args:
        deadline: on the monotonic clock.
        on_head: called with the head's address, while the other nodes start. What it raises ends the start.

    Raises:
        StartFailed: with all nodes ended that had come up.
        UnfitSpark: this Spark cannot.
    """
    tasks = plan.nodes
    shipped = False
    while True:
        wait_for_executors(sc, plan.nodes, deadline)
        attempt = _Attempt(sc, order, rendezvous, deadline, on_head)
        try:
            return attempt.run(tasks)
        except _NotCovered as reached:
            slots = total_slots(sc)
            if tasks > plan.nodes or slots is None or slots <= tasks:
                raise UnfitSpark(
                    f"Spark ran {tasks} tasks at a time on {reached.executors} executors only, and {plan.nodes} nodes "
                    "were asked for, one to an executor: other jobs hold the slots of the rest. Try again when they are "
                    "through, or ask for fewer nodes (num_ray_nodes)"
                ) from None
            tasks = slots  # all of them, so that no executor is left out; they have to be free for that
        except _Missing as missing:
            if shipped or order.same_machine:
                raise StartFailed(
                    f"sparkray cannot be imported by the Python of the executors ({missing}). Install sparkray there, or "
                    "have PYSPARK_PYTHON name a Python that has it"
                ) from None
            ship_sparkray(sc)
            shipped = True
            order = replace(order, sys_path=())


class _NotCovered(Exception):
    """All tasks ended without starting anything, since they were on too few executors."""

    def __init__(self, executors: int) -> None:
        self.executors = executors


class _Missing(Exception):
    """The executors' Python has no sparkray."""


class _Attempt:
    """One barrier stage."""

    def __init__(
        self,
        sc: SparkContext,
        order: StartOrder,
        rendezvous: Rendezvous,
        deadline: float,
        on_head: Callable[[str], None],
    ) -> None:
        self._sc, self._order, self._rendezvous = sc, order, rendezvous
        self._deadline, self._on_head = deadline, on_head
        self._gathering = Gathering(order.nodes)
        self._guests: set[Guest] = set()

    def run(self, tasks: int) -> list[dict[str, Any]]:
        group = f"sparkray-{self._order.session}"
        job = BarrierJob(self._sc, group, tasks, self._order, self._rendezvous.wake)
        try:
            self._gather(job)
            self._tell_all("done")
            job.thread.join(FAREWELL_S)
        except BaseException:  # a Ctrl-C too
            self._tell_all("abort")
            job.thread.join(FAREWELL_S if self._guests else 0)
            job.cancel()
            raise
        return list(self._gathering.ready.values())

    def _gather(self, job: BarrierJob) -> None:
        gathering = self._gathering
        head_told = False
        while not gathering.complete:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise StartFailed(self._why_late(job))
            for event in self._rendezvous.wait(left):
                self._heed(event)
            if gathering.failure is not None:
                self._raise_failure(job)
            if job.ended:
                self._raise_early_end(job)
            if gathering.head_address is not None and not head_told:
                head_told = True
                self._on_head(gathering.head_address)

    def _heed(self, event: Said | Left) -> None:
        match event:
            case Said(guest, facts):
                self._guests.add(guest)
                for to, answer in self._gathering.said(guest, facts):
                    assert isinstance(to, Guest)
                    self._rendezvous.say(to, answer)
            case Left(guest):
                self._guests.discard(guest)
                self._gathering.left(guest)

    def _tell_all(self, kind: str) -> None:
        for guest in self._guests:
            self._rendezvous.say(guest, {"kind": kind})

    def _raise_failure(self, job: BarrierJob) -> None:
        """A task that ends too early does so because Spark ended it, and Spark's own error says more."""
        job.thread.join(FAREWELL_S if "ended too early" in str(self._gathering.failure) else 0)
        if job.error is not None:
            self._raise_early_end(job)
        raise StartFailed(str(self._gathering.failure))

    def _raise_early_end(self, job: BarrierJob) -> None:
        if job.error is None:
            assert job.addresses is not None
            raise _NotCovered(len(set(job.addresses)))
        said = str(job.error)
        missing = re.search(f"{_MISSING}: (.*?)<end>", said, re.DOTALL)
        if missing is not None:
            raise _Missing(missing.group(1)) from None
        raise StartFailed(in_one_sentence(said)) from job.error

    def _why_late(self, job: BarrierJob) -> str:
        gathering = self._gathering
        if gathering.here:
            waited = [where for guest, where in gathering.here.items() if guest not in gathering.ready]
            return (
                f"{len(gathering.ready)} of {gathering.nodes} nodes were ready within {self._order.limit_s:g} s; not so those "
                f"of the executors at {', '.join(waited) or 'addresses that Spark did not tell'}. Raise start_timeout if they "
                "are slow to start"
            )
        return (
            f"Spark did not run the {gathering.nodes} tasks that start the nodes, all at one time, within "
            f"{self._order.limit_s:g} s. {busy_with(self._sc, f'sparkray-{self._order.session}')}. Try again when there are free slots, or raise "
            f"start_timeout"
        )


def busy_with(sc: SparkContext, but: str) -> str:
    """A sentence about who holds Spark's slots, the job group `but` left out."""
    tracker = sc.statusTracker()
    ours = set(tracker.getJobIdsForGroup(but))
    held = []
    for job in tracker.getActiveJobsIds():
        facts = tracker.getJobInfo(job)
        stages = [tracker.getStageInfo(stage) for stage in (facts.stageIds if facts and job not in ours else ())]
        held += [f'{stage.numActiveTasks} by "{stage.name}"' for stage in stages if stage and stage.numActiveTasks]
    slots = total_slots(sc)
    of = f"Of {slots} slots" if slots is not None else "Of its slots"
    return (
        f"{of} it uses {', '.join(held)}"
        if held
        else f"{of} none is in use by another job: its Python is slow to start"
    )


def in_one_sentence(error: str) -> str:
    """Spark's stack traces put shortly, where we know what they are about."""
    versions = re.search(r"different version:? (.*?) than that in driver:? (.*?),? PySpark", error)
    if "PYTHON_VERSION_MISMATCH" in error:
        which = f": {versions.group(1)} there, {versions.group(2)} here" if versions else ""
        return (
            f"the executors run another Python version than the driver{which}. Set PYSPARK_PYTHON, before the SparkContext "
            "is made, to a Python of the driver's version"
        )
    if "Cannot run program" in error:
        program = re.search(r'Cannot run program "([^"]*)"', error)
        return (
            f"the executors cannot run {program.group(1) if program else 'their Python'}. Set PYSPARK_PYTHON, before the "
            "SparkContext is made, to a Python that is there on every host"
        )
    if "SPARK-24819" in error:
        return "Spark has fewer slots than the barrier stage needs [SPARK-24819]: ask for fewer nodes (num_ray_nodes)"
    if "SPARK-24942" in error:
        return "a barrier stage cannot run with dynamic allocation [SPARK-24942]: set spark.dynamicAllocation.enabled=false"
    return f"the Spark job that starts the nodes failed: {error.strip()[:_SHOWN_CHARACTERS]}"
