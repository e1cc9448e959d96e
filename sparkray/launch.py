"""The driver's half of the start: one barrier stage whose tasks start the nodes, and the talk with them meanwhile."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sparkray
from sparkray.executor_main import StartOrder, TaskResult
from sparkray.gathering import Gathering
from sparkray.rendezvous import Guest, Left, Rendezvous, Said
from sparkray.sizing import NodePlan, UnfitSpark
from sparkray.spark_facts import in_one_sentence
from sparkray.sparks import AnySpark, StartTask
from sparkray_core import errors
from sparkray_core.errors import RaySystemError

FAREWELL_S = 3.0  # for tasks to end their nodes once they were told to; then Spark is told to kill the tasks
MISSING = "sparkray is missing here"

log = logging.getLogger(__name__)


class StartFailed(RaySystemError):
    """The nodes did not come up; those that did have been ended again."""


# Pickled by value, because its module is "__main__": a function of ours would be pickled by name, and the task could
# not even be read where sparkray is found only after the path was extended.
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
            raise RuntimeError(f"{MISSING}: {{error}} ({{sys.executable}})<end>") from None
    return [sparkray.executor_main.run(order)]
"""


class StartJob:
    """The tasks that start nodes: a Spark job in a thread and job group of its own.

    `results` or `error` is there once the thread has ended.
    """

    def __init__(self, spark: AnySpark, group: str, tasks: int, order: StartOrder, on_end: Callable[[], None]) -> None:
        self.results: list[TaskResult] | None = None
        self.error: BaseException | None = None
        self._spark, self._group, self._tasks, self._order, self._on_end = spark, group, tasks, order, on_end
        self.thread = spark.thread(self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            what = f"sparkray: starting {self._order.nodes} nodes"
            self.results = self._spark.run(self._group, what, self._tasks, self._order.barrier, self._task())
        except BaseException as error:  # noqa: BLE001 - whatever Spark raises belongs to the thread that waits for it
            self.error = error
        finally:
            self._on_end()

    def _task(self) -> StartTask:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(_TASK, names)
        task, order = names["task"], self._order.as_dict()
        root = os.path.dirname(os.path.dirname(os.path.abspath(sparkray.__file__)))
        core_root = os.path.dirname(os.path.dirname(os.path.abspath(errors.__file__)))
        task.__defaults__ = (order, [root, core_root] if self._order.same_machine else [])
        return task  # type: ignore[no-any-return]

    @property
    def ended(self) -> bool:
        return self.results is not None or self.error is not None

    def cancel(self) -> None:
        if not self.ended:
            self._spark.cancel(self._group)


def launch(
    spark: AnySpark,
    plan: NodePlan,
    order: StartOrder,
    rendezvous: Rendezvous,
    deadline: float,
    on_head: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Start the nodes; returns what each said when it was ready. The stage has ended by then, its slots are free.

    Args:
        deadline: on the monotonic clock.
        on_head: called, once, with the head's address, while the other nodes start. What it raises ends the start.

    Raises:
        StartFailed: with all nodes ended that had come up.
        UnfitSpark: this Spark cannot.
    """
    tasks = plan.nodes
    shipped = False
    while True:
        spark.wait_for_executors(plan.nodes, deadline)
        attempt = _Attempt(spark, order, rendezvous, deadline, on_head)
        try:
            return attempt.run(tasks)
        except _NotCovered as reached:
            slots = spark.total_slots()
            if tasks > plan.nodes or slots is None or slots <= tasks:
                raise UnfitSpark(
                    f"Spark ran {tasks} tasks at a time on {reached.executors} executors only, and {plan.nodes} nodes "
                    "were asked for, one to an executor: other jobs hold the slots of the rest. Try again when they "
                    "are through, or ask for fewer nodes (num_ray_nodes)"
                ) from None
            tasks = slots  # all of them, so that no executor is left out; they have to be free for that
        except Missing as missing:
            if shipped or order.same_machine or attempt.head_told:
                raise StartFailed(missing.told()) from None
            spark.ship()
            shipped = True
            order = replace(order, sys_path=())


class _NotCovered(Exception):
    """All tasks ended without starting anything, since they were on too few executors."""

    def __init__(self, executors: int) -> None:
        self.executors = executors


class Missing(Exception):
    """The executors' Python has no sparkray."""

    def told(self) -> str:
        return (
            f"sparkray cannot be imported by the Python of the executors ({self}). Install sparkray there, or have "
            "PYSPARK_PYTHON name a Python that has it"
        )


class _Attempt:
    """One barrier stage."""

    def __init__(
        self,
        spark: AnySpark,
        order: StartOrder,
        rendezvous: Rendezvous,
        deadline: float,
        on_head: Callable[[str], None],
    ) -> None:
        self._spark, self._order, self._rendezvous = spark, order, rendezvous
        self._deadline, self._on_head = deadline, on_head
        self._gathering = Gathering(order.nodes)
        self._group = f"sparkray-{order.session}"
        self.head_told = False
        self._guests: set[Guest] = set()

    def run(self, tasks: int) -> list[dict[str, Any]]:
        job = StartJob(self._spark, self._group, tasks, self._order, self._rendezvous.wake)
        try:
            self._gather(job)
            for doubt in self._gathering.doubts:
                log.warning("%s", doubt)
            self._tell_all("done")
            job.thread.join(FAREWELL_S)
        except BaseException:  # a Ctrl-C too
            self._tell_all("abort")
            self._see_off()
            job.cancel()
            raise
        return list(self._gathering.ready.values())

    def _see_off(self) -> None:
        """Wait until the tasks have closed their connections, which each does when its node has ended."""
        deadline = time.monotonic() + FAREWELL_S
        while self._guests and (left := deadline - time.monotonic()) > 0:
            for event in self._rendezvous.wait(left):
                if isinstance(event, Left):
                    self._guests.discard(event.guest)

    def _gather(self, job: StartJob) -> None:
        gathering = self._gathering
        while not gathering.complete:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise StartFailed(self._why_late())
            for event in self._rendezvous.wait(left):
                self._heed(event)
            if gathering.failure is not None:
                self._raise_failure(job)
            if job.error is not None:
                raise failure_of(job.error)
            if job.results is not None and not any(launched for _, launched in job.results):
                raise _NotCovered(len({address for address, _ in job.results}))
            if gathering.head_address is not None and not self.head_told:
                self.head_told = True
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

    def _raise_failure(self, job: StartJob) -> None:
        """A task that ends too early does so because Spark ended it, and Spark's own error says more."""
        job.thread.join(FAREWELL_S if "ended too early" in str(self._gathering.failure) else 0)
        if job.error is not None:
            raise failure_of(job.error)
        raise StartFailed(str(self._gathering.failure))

    def _why_late(self) -> str:
        gathering, limit = self._gathering, f"{self._order.limit_s:g} s"
        if gathering.here:
            waited = [where for guest, where in gathering.here.items() if guest not in gathering.ready]
            return (
                f"{len(gathering.ready)} of {gathering.nodes} nodes were ready within {limit}; not so those of the "
                f"executors at {', '.join(waited) or 'addresses that Spark did not tell'}. Raise start_timeout if they "
                "are slow to start"
            )
        return (
            f"Spark did not run the {gathering.nodes} tasks that start the nodes, all at one time, within {limit}. "
            f"{self._spark.slots(self._group).holders()}. Try again when there are free slots, or raise start_timeout"
        )


def failure_of(error: BaseException) -> Exception:
    """What to raise for what Spark raised: `Missing`, or a `StartFailed` in our words."""
    said = str(error)
    missing = re.search(f"{MISSING}: (.*?)<end>", said, re.DOTALL)
    if missing is not None:
        return Missing(missing.group(1))
    failure = StartFailed(in_one_sentence(said))
    failure.__cause__ = error
    return failure
