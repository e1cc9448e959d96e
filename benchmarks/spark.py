"""What sparkray costs beside Spark: starting and stopping in its executors, and moving a DataFrame into the stores.

    python benchmarks/spark.py                       200 MB, two executors of one core on this machine
    python benchmarks/spark.py --mb 1000 --rounds 7

`from_spark` is measured against its floor: the same pass of the same DataFrame through the same Python workers, by a
function that only counts bytes. The two take turns, in every round on a session, and so on a store, that is new: memory
that nobody has written to yet is the slowest there is. The first round warms Spark up, and is left out.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyspark
from micro import RESULTS, describe_machine, say, without_paths
from micro_report import number, terminal
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import sparkray as ray
from sparkray import RayContext

ROW_BYTES = 61  # of `frame`, as Arrow counts them
PARTITIONS = 8
MB = 1_000_000


@dataclass
class Measured:
    """One row of the result, a value per round."""

    title: str
    unit: str
    values: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        middle = statistics.median(self.values)
        return [self.title, self.unit, *map(number, (min(self.values), middle, max(self.values)))]


ROWS = {
    "start": Measured("RayContext: init() to the first task's result", "s"),
    "init": Measured("  of which init()", "s"),
    "stop": Measured("RayContext: stop(), all gone", "s"),
    "floor": Measured("mapInArrow that counts bytes (the floor)", "s"),
    "from_spark": Measured("from_spark", "s"),
    "ratio": Measured("from_spark / floor, round by round", "x"),
    "cpu_ratio": Measured("the same, by CPU time of this process and all of Spark's", "x"),
    "rate": Measured("from_spark", "MB/s"),
    "to_spark": Measured("to_spark, into Spark's noop sink", "s"),
    "worker": Measured("peak memory of a Spark Python worker, from_spark", "MB"),
    "driver": Measured("growth of the driver's memory by from_spark", "MB"),
}


def main() -> int:
    args = parse_arguments()
    machine = describe_machine()
    say("  ".join(f"{key}: {value}" for key, value in machine.items()))
    with spark_session(args.master) as spark:
        for turn in range(args.rounds + 1):
            found = one_round(spark, args, turn)
            if turn:
                for name, value in found.items():
                    ROWS[name].values.append(value)
            say(f"{f'round {turn}' if turn else 'warm-up'}  " + "  ".join(f"{k} {number(v)}" for k, v in found.items()))
        version = spark.version
    say()
    say(terminal([["", "unit", "min", "median", "max"], *(row.cells() for row in ROWS.values())]))
    write(args, machine, version)
    return 0


def one_round(spark: SparkSession, args: argparse.Namespace, turn: int) -> dict[str, float]:
    found: dict[str, float] = {}

    @ray.remote
    def first() -> int:
        return 1

    df = frame(spark, args.mb)
    passes: list[Callable[[], None]] = [lambda: floor(df, found), lambda: transfer(df, found)]
    ctx = RayContext(spark, object_store_memory=max(2 * args.mb * MB, 256 * MB))
    began = time.perf_counter()
    ctx.init()
    found["init"] = time.perf_counter() - began
    assert ray.get(first.remote()) == 1
    found["start"] = time.perf_counter() - began
    try:
        for one in passes if turn % 2 else passes[::-1]:
            one()
    finally:
        began = time.perf_counter()
        report = ctx.stop()
        found["stop"] = time.perf_counter() - began
        assert report.clean, str(report)
    found["ratio"] = found["from_spark"] / found["floor"]
    found["cpu_ratio"] = found["from_spark_cpu"] / found["floor_cpu"]
    return {name: found[name] for name in ROWS}


def frame(spark: SparkSession, mb: int) -> DataFrame:
    """Seven columns: whole numbers, floats, a string; made anew in every pass."""
    number_ = F.col("id")
    columns = [number_, (number_ % 97).cast("int").alias("k"), *(F.rand(seed).alias(f"x{seed}") for seed in range(4))]
    rows = mb * MB // ROW_BYTES
    return spark.range(0, rows, 1, PARTITIONS).select(*columns, F.concat(F.lit("item-"), number_).alias("text"))


def floor(df: DataFrame, found: dict[str, float]) -> None:
    cpu, began = cpu_seconds(), time.perf_counter()
    answers = df.mapInArrow(count_bytes, "rows long, bytes long").collect()
    found["floor"] = time.perf_counter() - began
    found["floor_cpu"] = cpu_seconds() - cpu
    assert sum(answer.rows for answer in answers) == df.count()


def transfer(df: DataFrame, found: dict[str, float]) -> None:
    reset_peaks(df.sparkSession)
    gc.collect()
    before = resident_mb()
    cpu, began = cpu_seconds(), time.perf_counter()
    dataset = ray.data.from_spark(df)
    found["from_spark"] = time.perf_counter() - began
    found["from_spark_cpu"] = cpu_seconds() - cpu
    found["driver"] = resident_mb() - before
    found["rate"] = dataset.size_bytes() / MB / found["from_spark"]
    found["worker"] = peak(df.sparkSession)
    began = time.perf_counter()
    back = dataset.to_spark(df.sparkSession)
    back.write.format("noop").mode("overwrite").save()
    found["to_spark"] = time.perf_counter() - began
    assert back.count() == dataset.count() == df.count()


# ------------------------------------------------------------------------------------------ in Spark's Python workers
def count_bytes(batches: Any) -> Any:
    import pyarrow as pa

    rows = size = 0
    for batch in batches:
        rows += batch.num_rows
        size += batch.nbytes
    yield pa.RecordBatch.from_pydict({"rows": [rows], "bytes": [size]})


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
def resident_mb() -> float:
    """Of this process, without what it shares: the driver maps the start of its node's store in the background."""
    import psutil

    memory = psutil.Process().memory_info()
    return float(memory.rss - getattr(memory, "shared", 0)) / MB


def cpu_seconds() -> float:
    """Of this process and its descendants, Spark's JVMs and Python workers among them; what has ended is not seen."""
    import psutil

    total = 0.0
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            total += used.user + used.system
    return total


@contextmanager
def spark_session(master: str) -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder: Any = SparkSession.builder
    for name in ("spark.ui.enabled", "spark.ui.showConsoleProgress"):
        builder = builder.config(name, "false")
    spark = builder.config("spark.log.level", "ERROR").master(master).appName("sparkray benchmark").getOrCreate()
    application = spark.sparkContext.applicationId
    try:
        yield spark
    finally:
        spark.stop()
        shutil.rmtree(Path(str(pyspark.__file__)).parent / "work" / application, ignore_errors=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mb", type=int, default=200, help="size of the DataFrame, as Arrow counts it (200)")
    parser.add_argument("--rounds", type=int, default=5, help="measured, after one that is not (5)")
    parser.add_argument("--master", default="local-cluster[2,1,1024]", help="of Spark (local-cluster[2,1,1024])")
    return parser.parse_args()


def write(args: argparse.Namespace, machine: dict[str, str], version: str) -> None:
    now = datetime.datetime.now().astimezone()
    facts = {
        "when": now.isoformat(timespec="seconds"),
        "machine": machine,
        "versions": {"sparkray": ray.__version__, "spark": version, "python": sys.version.split()[0]},
        "master": args.master,
        "mb": args.mb,
        "rounds": args.rounds,
        "rows": {
            name: {"title": row.title.strip(), "unit": row.unit, "values": row.values} for name, row in ROWS.items()
        },
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"spark-{now:%Y-%m-%dT%H%M}.json"
    path.write_text(without_paths(json.dumps(facts, indent=1)) + "\n")
    say(f"\nbenchmarks/results/{path.name}")


if __name__ == "__main__":
    sys.exit(main())
