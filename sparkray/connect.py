"""A Spark that is reached by Spark Connect: no SparkContext here, and no JVM of this process's own.

The client, with the session's driver in it, may be on another machine than the server and the executors. The tasks
that start nodes are those of a `mapInArrow` over a range. What a SparkContext would tell of the executors is asked of
tasks that look around where they run (`connect_main`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sparkray
import sparkray_core
from sparkray.connect_main import machine
from sparkray.executor_main import TaskResult
from sparkray.joining import own_address
from sparkray.launch import MISSING, Missing, StartFailed, failure_of
from sparkray.ship import pack_sparkray
from sparkray.sizing import UnfitSpark, is_local, is_loopback, local_slots
from sparkray.slots import Slots
from sparkray.spark_facts import wait_until_there
from sparkray.sparks import StartTask

FRESH_S = 1.0  # for which what a look at the executors has found is taken as it is
MOST_LOOKS = 1024  # tasks of one look; Spark deals them out to executors by turns
_SPLITS = re.compile(r"Range \(.*splits=(?:Some\()?(\d+)")
_looks = itertools.count()

# As in `launch`: pickled by value, for executors where sparkray may be found only after the path was extended.
_LOOK = f"""
def look(batches):
    import sys
    import pyarrow
    try:
        import sparkray.connect_main
    except ImportError:
        sys.path += [root for root in roots if root not in sys.path]
        try:
            import sparkray.connect_main
        except ImportError as error:
            raise RuntimeError(f"{MISSING}: {{error}} ({{sys.executable}})<end>") from None
    for _ in batches:
        pass
    yield pyarrow.RecordBatch.from_pylist([sparkray.connect_main.look_around()])
"""
_LOOK_COLUMNS = "machine string, pid long, start double, cores long"

_STEP = """
def step(batches):
    import pyarrow
    for _ in batches:
        pass
    yield pyarrow.RecordBatch.from_pylist(
        [{"address": address, "launched": launched} for address, launched in task(None)]
    )
"""
_STEP_COLUMNS = "address string, launched boolean"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look at the executors has found. One that was busy all the time is not seen."""

    at: float
    executors: int
    slots: int | None
    machines: frozenset[str]


class ConnectSpark:
    """See the module, and `sparks.AnySpark`."""

    is_remote = True

    def __init__(self, spark: Any, limit_s: float) -> None:
        """
        Args:
            spark: a SparkSession of Spark Connect.
            limit_s: for a look at the executors.

        Raises:
            TypeError: this PySpark's sessions cannot do what is needed.
        """
        if not hasattr(type(spark), "is_stopped") or not hasattr(type(spark.conf), "getAll"):
            raise TypeError("RayContext takes a SparkSession of Spark Connect from PySpark 4 on")
        self.handle = self.spark = spark
        self._limit_s = limit_s
        self._master: str | None = None
        self._seen: _Seen | None = None
        self._shipped = False

    @property
    def name(self) -> str:
        return f"Spark Connect at {self.spark.client.host}"

    @property
    def master(self) -> str:
        if self._master is None:
            self._master = str(self.spark.conf.get("spark.master", "unknown"))
        return self._master

    @property
    def stopped(self) -> bool:
        return bool(self.spark.is_stopped)

    def settings(self) -> Mapping[str, str]:
        return dict(self.spark.conf.getAll)

    @property
    def same_machine(self) -> bool:
        return self._look().machines == {machine()}

    def executors(self) -> int:
        return self._look().executors

    def total_slots(self) -> int | None:
        return self._look().slots

    def slots(self, but: str = "") -> Slots:
        # Of a group of ours, whose tasks did not get their slots: a look would not get any, either.
        seen = self._seen if but and self._seen is not None else self._look()
        return Slots(seen.slots, None)

    def wait_for_executors(self, nodes: int, deadline: float) -> None:
        busy = " (one that other jobs keep busy all the time is not seen over Spark Connect)"
        wait_until_there(self.executors, self.total_slots, nodes, deadline, busy)

    def why_lost(self, executor_id: str) -> str | None:
        return "nothing over Spark Connect; its server's log says why"

    def reached_at(self, same_machine: bool) -> tuple[str, str]:
        if same_machine:
            return "127.0.0.1", "127.0.0.1"
        said = os.environ.get("SPARK_LOCAL_IP")  # Spark's own word for it
        host = said or own_address(self.spark.client.host)
        if not said and is_loopback(host):
            raise UnfitSpark(
                f"the Spark Connect server is reached at {self.spark.client.host}, and its executors are on other "
                "machines: set SPARK_LOCAL_IP to the address of this machine at which they reach it"
            )
        return host, host

    def thread(self, target: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=target, daemon=True, name="sparkray-start")

    def run(self, group: str, what: str, tasks: int, barrier: bool, task: StartTask) -> list[TaskResult]:
        names: dict[str, Any] = {"__name__": "__main__", "task": task}
        exec(_STEP, names)
        rows = self._collect(group, tasks, names["step"], _STEP_COLUMNS, barrier)
        return [(row.address, row.launched) for row in rows]

    def cancel(self, group: str) -> None:
        self.spark.interruptTag(group)

    def ship(self) -> None:
        with tempfile.TemporaryDirectory(prefix="sparkray-") as folder:
            self.spark.addArtifacts(pack_sparkray(folder), pyfile=True)
        self._shipped = True

    def _collect(self, tag: str, tasks: int, step: Any, columns: str, barrier: bool = False) -> Sequence[Any]:
        self.spark.addTag(tag)  # of this thread
        try:
            rows: Sequence[Any] = (
                self.spark.range(0, tasks, 1, tasks).mapInArrow(step, columns, barrier=barrier).collect()
            )
            return rows
        finally:
            self.spark.removeTag(tag)

    # ------------------------------------------------------------------ what there is
    def _look(self) -> _Seen:
        """
        Raises:
            UnfitSpark: no task ran in time.
            StartFailed: tasks cannot look; the text says why.
        """
        if self._seen is not None and time.monotonic() - self._seen.at < FRESH_S:
            return self._seen
        try:
            rows = self._look_around()
        except Missing as missing:
            if self._shipped:
                raise StartFailed(missing.told()) from None
            self.ship()
            try:
                rows = self._look_around()
            except Missing as still:
                raise StartFailed(still.told()) from None
        executors = {(row.machine, row.pid, row.start): row.cores for row in rows}
        if is_local(self.master):
            slots = local_slots(self.master)
        elif None in executors.values():
            slots = None
        else:
            task_cpus = int(self.spark.conf.get("spark.task.cpus", "1") or 1)
            slots = sum(cores // task_cpus for cores in executors.values())
        machines = frozenset(row.machine for row in rows)
        self._seen = _Seen(time.monotonic(), len(executors), slots, machines)
        return self._seen

    def _look_around(self) -> Sequence[Any]:
        """One job of as many tasks as there are cores: Spark deals them out to all executors with a free slot."""
        roots = [
            os.path.dirname(os.path.dirname(os.path.abspath(str(package.__file__))))
            for package in (sparkray, sparkray_core)
        ]
        names: dict[str, Any] = {"__name__": "__main__", "roots": roots}
        exec(_LOOK, names)
        found: list[Sequence[Any]] = []
        errors: list[BaseException] = []
        tag = f"sparkray-look-{os.getpid()}-{next(_looks)}"

        def run() -> None:
            try:
                found.append(self._collect(tag, self._tasks_to_look(), names["look"], _LOOK_COLUMNS))
            except BaseException as error:  # noqa: BLE001 - whatever Spark raises belongs to the thread that waits
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True, name="sparkray-look")
        thread.start()
        try:
            thread.join(self._limit_s)
            if thread.is_alive():
                raise UnfitSpark(
                    f"Spark did not run a first task within {self._limit_s:g} s: it has no executor, or other jobs "
                    "hold all of its slots. Try again when there are free ones, or raise start_timeout"
                )
        except BaseException:  # a Ctrl-C too
            with contextlib.suppress(Exception):
                self.cancel(tag)
            raise
        if errors:
            raise failure_of(errors[0])
        return found[0]

    def _tasks_to_look(self) -> int:
        """Spark's default for the partitions of a range is the number of all executors' cores."""
        plan = str(self.spark.sql("EXPLAIN SELECT * FROM range(10)").collect()[0][0])
        splits = _SPLITS.search(plan)
        return min(max(int(splits.group(1)) if splits else 0, 2), MOST_LOOKS)
