"""What it costs to have a DataFrame in the object stores: `from_spark` against its floor, and against other ways.

The floor is the same pass of the same DataFrame through the same Python workers, by a function that only counts bytes.
The ways take turns, in every round on a session, and so on a store, that is new: memory that nobody has written to yet
is the slowest there is. The first round warms Spark up, and is left out.

RayDP starts a Spark of its own inside Ray, so it gets a process of its own and is measured against the floor there.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyspark
import spark_child
from micro import say
from micro_process import why_not_importable
from micro_report import number
from pyspark import cloudpickle
from pyspark.sql import DataFrame, SparkSession
from spark_child import counted, frame
from spark_process import Child

import sparkray as ray
from sparkray import RayContext

PARTITIONS = 8
MB = 1_000_000
SAMPLE_S = 0.05  # between two looks at the driver's memory


@dataclass
class Measured:
    """One row of the result, a value per round."""

    title: str
    unit: str
    values: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        middle = statistics.median(self.values)
        return [self.title, self.unit, *map(number, (min(self.values), middle, max(self.values)))]


# Executors have no modules of this folder: what they run travels by value.
for module in (spark_child, sys.modules[__name__]):
    cloudpickle.register_pickle_by_value(module)

HEADER = ["", "unit", "min", "median", "max"]


def new_rows() -> dict[str, Measured]:
    return {
        "floor": Measured("mapInArrow that only counts bytes: the floor", "s"),
        "from_spark": Measured("from_spark", "s"),
        "ratio": Measured("from_spark / floor, round by round", "x"),
        "cpu_ratio": Measured("the same, by CPU time of this process and all of Spark's", "x"),
        "rate": Measured("from_spark", "MB/s"),
        "to_spark": Measured("to_spark, into Spark's noop sink", "s"),
        "to_arrow": Measured("df.toArrow() and put", "s"),
        "to_arrow_ratio": Measured("df.toArrow() and put / floor, round by round", "x"),
        "worker": Measured("peak memory of a Spark Python worker, from_spark", "MB"),
        "driver": Measured("growth of the driver, peak, by from_spark: Python", "MB"),
        "driver_jvm": Measured("  its JVM", "MB"),
        "to_arrow_driver": Measured("growth of the driver, peak, by df.toArrow() and put: Python", "MB"),
        "to_arrow_driver_jvm": Measured("  its JVM", "MB"),
        "init": Measured("RayContext on this Spark: init()", "s"),
        "stop": Measured("RayContext on this Spark: stop(), all gone", "s"),
        "raydp_floor": Measured("RayDP, in its own Spark: the floor there", "s"),
        "raydp": Measured("RayDP: from_spark", "s"),
        "raydp_ratio": Measured("RayDP: from_spark / floor, round by round", "x"),
    }


def measure(args: argparse.Namespace, rows: dict[str, Measured]) -> tuple[dict[str, str], list[str]]:
    """Fill the rows. Returns versions, and what there is to say of rows that are empty."""
    versions = {"sparkray": ray.__version__, "python": sys.version.split()[0]}
    with spark_session(args) as spark, rival(args) as (raydp, why):
        versions["spark"] = spark.version
        if raydp is not None:
            versions["raydp"] = str(raydp.facts["version"])
        for turn in range(args.rounds + 1):
            found = one_round(spark, args, turn)
            if raydp is not None:
                try:
                    found |= round_of_raydp(raydp, turn)
                except RuntimeError as error:
                    why.append(f"RayDP failed in round {turn}: {str(error).partition(chr(10))[0]}")
                    raydp = None
            if turn:
                for name, value in found.items():
                    rows[name].values.append(value)
            say(f"{f'round {turn}' if turn else 'warm-up'}  " + "  ".join(f"{k} {number(v)}" for k, v in found.items()))
    for name in [name for name, row in rows.items() if not row.values]:
        del rows[name]
    return versions, why


def one_round(spark: SparkSession, args: argparse.Namespace, turn: int) -> dict[str, float]:
    found: dict[str, float] = {}
    df = frame(spark, args.mb, PARTITIONS)
    ways: list[Callable[[], None]] = [lambda: floor(df, found), lambda: transfer(df, found)]
    if hasattr(df, "toArrow"):  # of Spark 4
        ways.append(lambda: to_arrow(df, found))
    ctx = RayContext(spark, object_store_memory=max(2 * args.mb * MB, 256 * MB))
    found["init"] = seconds(ctx.init)
    try:
        for number_ in range(len(ways)):  # each is the first, the second ... in its turn
            ways[(number_ + turn) % len(ways)]()
            gc.collect()
    finally:
        found["stop"] = seconds(ctx.stop)
        assert ctx.last_stop.clean, str(ctx.last_stop)
    found["ratio"] = found["from_spark"] / found["floor"]
    found["cpu_ratio"] = found.pop("from_spark_cpu") / found.pop("floor_cpu")
    if "to_arrow" in found:
        found["to_arrow_ratio"] = found["to_arrow"] / found["floor"]
    return found


def floor(df: DataFrame, found: dict[str, float]) -> None:
    cpu, began = cpu_seconds(), time.perf_counter()
    rows = counted(df)
    found["floor"] = time.perf_counter() - began
    found["floor_cpu"] = cpu_seconds() - cpu
    assert rows == df.count()


def transfer(df: DataFrame, found: dict[str, float]) -> None:
    reset_peaks(df.sparkSession)
    with Growth() as growth:
        cpu, began = cpu_seconds(), time.perf_counter()
        dataset = ray.data.from_spark(df)
        found["from_spark"] = time.perf_counter() - began
        found["from_spark_cpu"] = cpu_seconds() - cpu
    found["driver"], found["driver_jvm"] = growth.python, growth.jvm
    found["rate"] = dataset.size_bytes() / MB / found["from_spark"]
    found["worker"] = peak(df.sparkSession)
    back = dataset.to_spark(df.sparkSession)
    found["to_spark"] = seconds(lambda: back.write.format("noop").mode("overwrite").save())
    assert dataset.count() == df.count()


def to_arrow(df: DataFrame, found: dict[str, float]) -> None:
    with Growth() as growth:
        kept: list[Any] = []
        found["to_arrow"] = seconds(lambda: kept.append(ray.put(df.toArrow())))
    found["to_arrow_driver"], found["to_arrow_driver_jvm"] = growth.python, growth.jvm
    assert ray.get(kept[0]).num_rows == df.count()


# ------------------------------------------------------------------------------------------ RayDP
@contextmanager
def rival(args: argparse.Namespace) -> Iterator[tuple[Child | None, list[str]]]:
    """RayDP's process, or why there is none."""
    there = Path(args.raydp_python).exists()
    if why := why_not_importable(args.raydp_python, "raydp, ray, pyspark") if there else "no such file":
        yield None, [f"RayDP was not measured, {args.raydp_python} lacks it: {why}"]
        return
    order = {
        "mb": args.mb,
        "partitions": PARTITIONS,
        "memory": f"{1024 + args.mb}m",  # its blocks are made in the heap, and pass through Spark's cache
        "conf": {"spark.ui.enabled": "false", "spark.log.level": "ERROR"},
    }
    try:
        child = Child(args.raydp_python, "raydp", order)
    except RuntimeError as error:
        yield None, [f"RayDP was not measured, it does not start: {str(error).strip().splitlines()[-1]}"]
        return
    try:
        yield child, []
    finally:
        child.end()


def round_of_raydp(child: Child, turn: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for way in ["floor", "from_spark"] if turn % 2 else ["from_spark", "floor"]:
        found |= child.do(way)
    return {
        "raydp_floor": found["floor"],
        "raydp": found["from_spark"],
        "raydp_ratio": found["from_spark"] / found["floor"],
    }


# ------------------------------------------------------------------------------------------ in Spark's Python workers
def tell_peak(batches: Any) -> Any:
    import pyarrow as pa

    list(batches)
    with open("/proc/self/status") as status:
        kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    yield pa.RecordBatch.from_pydict({"mb": [kilobytes * 1024 / 1e6]})


def forget_peak(batches: Any) -> Any:
    list(batches)
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")
    yield from ()


def peak(spark: SparkSession) -> float:
    """The most resident memory that a Python worker had: Spark uses them again for the next job."""
    if not os.path.exists("/proc/self/clear_refs"):
        return 0.0
    return float(max(row[0] for row in spark.range(0, 8, 1, 8).mapInArrow(tell_peak, "mb double").collect()))


def reset_peaks(spark: SparkSession) -> None:
    if os.path.exists("/proc/self/clear_refs"):
        spark.range(0, 8, 1, 8).mapInArrow(forget_peak, "mb double").collect()


# ------------------------------------------------------------------------------------------ around it
class Growth:
    """Of this process and of Spark's driver JVM, from the start of the block to the highest point in it, in MB."""

    def __enter__(self) -> Growth:
        from pyspark import SparkContext

        gc.collect()
        gateway: Any = SparkContext._gateway
        self._watched = [psutil.Process(), psutil.Process(gateway.proc.pid)]
        self._before = self._highest = self._now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self._highest = [max(pair) for pair in zip(self._highest, self._now(), strict=True)]

    def _now(self) -> list[float]:
        """Without what a process shares: the driver maps the start of its node's store in the background."""
        memory = [process.memory_info() for process in self._watched]
        return [(one.rss - getattr(one, "shared", 0)) / MB for one in memory]

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        highest = [max(pair) for pair in zip(self._highest, self._now(), strict=True)]
        self.python, self.jvm = (after - before for before, after in zip(self._before, highest, strict=True))


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def cpu_seconds() -> float:
    """Of this process and its descendants, Spark's JVMs and Python workers among them; what has ended is not seen."""
    total = 0.0
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            total += used.user + used.system
    return total


@contextmanager
def spark_session(args: argparse.Namespace) -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.driver.memory": f"{2048 + 3 * args.mb}m",  # toArrow has the whole DataFrame pass through it
        "spark.driver.maxResultSize": "0",
    }
    builder: Any = SparkSession.builder
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.master(args.master).appName("sparkray benchmark").getOrCreate()
    application = spark.sparkContext.applicationId
    try:
        yield spark
    finally:
        spark.stop()
        shutil.rmtree(Path(str(pyspark.__file__)).parent / "work" / application, ignore_errors=True)
