"""The checks of `sparkray doctor`: a whole session in a Spark, from the start to nothing left, step by step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sparkray
from sparkray.sizing import is_local
from sparkray.spark_session import require_java, spark_context

if TYPE_CHECKING:
    from pyspark import SparkContext

    from sparkray.cluster import RayContext

TASK_LIMIT_S = 120.0
OBJECT_BYTES = 8 << 20
ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one step."""

    step: str
    seconds: float
    ok: bool
    said: str  # what was found, or what is wrong and what to do


class Doctor:
    """Runs the steps one after the other. After a failure only those run that clean up."""

    def __init__(self, settings: dict[str, str], python: str, **context: Any) -> None:
        """
        Args:
            settings: of Spark; "spark.master" among them, unless spark-submit or spark-defaults.conf says it.
            python: the interpreter of Spark's Python workers.
            context: arguments for `RayContext`.
        """
        self._settings, self._python, self._context = settings, python, context
        self._sc: SparkContext | None = None
        self._ray: RayContext | None = None

    def findings(self) -> Iterator[Finding]:
        """Each as soon as it is known."""
        steps: list[tuple[str, Callable[[], str]]] = [
            ("Java", self._java),
            ("SparkContext", self._start_spark),
            ("plan", self._plan),
            ("nodes", self._start_nodes),
            ("a task on each node", self._tasks),
            ("an actor", self._actor),
            ("an object to each node", self._object),
            ("a DataFrame there and back", self._frame),
        ]
        for name, step in steps:
            found = self._run(name, step)
            yield found
            if not found.ok:
                break
        yield self._run("nothing left", self._stop)
        yield self._run("Spark stopped", self._stop_spark)

    def _run(self, name: str, step: Callable[[], str]) -> Finding:
        began = time.monotonic()
        try:
            ok, said = True, step()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the cluster is what was asked for
            ok, said = False, str(error) or type(error).__name__
        return Finding(name, time.monotonic() - began, ok, said)

    # ------------------------------------------------------------------ the steps; each says what it found
    def _java(self) -> str:
        require_java()
        return os.environ.get("JAVA_HOME") or "on PATH"

    def _start_spark(self) -> str:
        self._sc = spark_context(self._settings, "ERROR", self._python)
        return f"Spark {self._sc.version} on {self._sc.master}, application {self._sc.applicationId}"

    def _plan(self) -> str:
        from sparkray.cluster import RayContext
        from sparkray.preflight import look_or_wait

        assert self._sc is not None
        self._ray = ray = RayContext(self._sc, **self._context)
        deadline = time.monotonic() + ray.start_timeout
        return str(look_or_wait(ray.spark, ray.wishes(), ray.start_timeout, ray.settings.object_store_share, deadline))

    def _start_nodes(self) -> str:
        ray = self._running
        ray.init()
        return ", ".join(f"{node.executor} ({node.cores} CPUs)" for node in ray.executors)

    @property
    def _running(self) -> RayContext:
        assert self._ray is not None
        return self._ray

    def _on_each_node(self, function: Callable[..., Any], *arguments: Any) -> int:
        """Run it until every executor's node had it; how many nodes that is."""
        wanted = {one.node.hex() for one in self._running.executors}
        remote = sparkray.remote(_tell_node)
        seen: set[str] = set()
        deadline = time.monotonic() + TASK_LIMIT_S
        while not wanted <= seen:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no task ran on node {', '.join(sorted(wanted - seen))} within {TASK_LIMIT_S:g} s")
            count = 4 * sum(one.cores for one in self._running.executors)
            seen |= set(sparkray.get([remote.remote(function, *arguments) for _ in range(count)], timeout=left))
        return len(wanted)

    def _tasks(self) -> str:
        return f"on {self._on_each_node(_nothing)} nodes"

    def _actor(self) -> str:
        counter = sparkray.remote(_Counter).remote()
        total = sparkray.get([counter.add.remote(number) for number in range(10)], timeout=TASK_LIMIT_S)[-1]
        if total != 45:
            raise RuntimeError(f"an actor counted {total} instead of 45: please report this")
        return "ten calls in order"

    def _object(self) -> str:
        large = sparkray.put(b"x" * OBJECT_BYTES)
        return f"{OBJECT_BYTES >> 20} MiB read on {self._on_each_node(_check_size, large)} nodes"

    def _frame(self) -> str:
        from pyspark.sql import SparkSession

        assert self._sc is not None
        spark = SparkSession(self._sc)
        blocks = sparkray.data.from_spark(spark.range(ROWS))
        total = blocks.to_spark(spark).selectExpr("sum(id) as total").collect()[0]["total"]
        if total != ROWS * (ROWS - 1) // 2:
            raise RuntimeError(f"{ROWS} rows came back with the sum {total}: please report this")
        return f"{ROWS} rows"

    def _stop(self) -> str:
        if self._ray is None:
            return "nothing was started"
        report = self._ray.stop()
        if not report.clean:
            raise RuntimeError(f"something is left: {report}")
        return str(report)

    def _stop_spark(self) -> str:
        if self._sc is None:
            return "it was not started"
        master = str(self._sc.master)
        self._sc.stop()
        return "the driver's JVM goes with this process" if is_local(master) else "its executors are given back"


class _Counter:
    def __init__(self) -> None:
        self._total = 0

    def add(self, number: int) -> int:
        self._total += number
        return self._total


def _tell_node(function: Callable[..., Any], *arguments: Any) -> str:
    function(*arguments)
    time.sleep(0.02)  # else one worker could do all of them
    return sparkray.session.core().node.hex()


def _nothing() -> None:
    """The least that a task can do."""


def _check_size(large: bytes) -> None:
    if len(large) != OBJECT_BYTES:
        raise RuntimeError(f"an object of {OBJECT_BYTES} bytes arrived with {len(large)}: please report this")
