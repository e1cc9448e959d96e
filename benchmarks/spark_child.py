"""A driver of its own, of one system, on a Spark that is there: it starts, stops or moves data when it is told to.

Run by `spark_start`, `spark_clusters` and `spark_data` with the interpreter of that system: it imports nothing of
theirs. One JSON object per line on stdin is an order, one per line on stdout the answer; all else that anybody prints
goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

STORE_BYTES = 256 * 2**20  # of a node, for the systems that only start and stop


class Sparkray:
    """`RayContext(sc).init()` and `.stop()`."""

    def __init__(self, spark: Any, _scratch: str) -> None:
        import sparkray

        self.version = sparkray.__version__
        self._ray, self._spark, self._ctx = sparkray, spark, None

    def start(self) -> dict[str, float]:
        began = time.perf_counter()
        self._ctx = self._ray.RayContext(self._spark, object_store_memory=STORE_BYTES)
        self._ctx.init()
        up = time.perf_counter() - began
        assert first_result(self._ray) == 1
        return {"init": up, "start": time.perf_counter() - began}

    def stop(self) -> dict[str, float]:
        began = time.perf_counter()
        report = self._ctx.stop()
        took = time.perf_counter() - began
        assert report.clean, str(report)
        return {"stop": took}


class Ray:
    """`ray.util.spark.setup_ray_cluster`, `ray.init`, and `shutdown_ray_cluster`."""

    def __init__(self, spark: Any, scratch: str) -> None:
        import ray

        self.version = ray.__version__
        self._ray, self._scratch = ray, scratch

    def start(self) -> dict[str, float]:
        from ray.util.spark import setup_ray_cluster

        began = time.perf_counter()
        setup_ray_cluster(
            max_worker_nodes=2,
            object_store_memory_worker_node=STORE_BYTES,
            object_store_memory_head_node=STORE_BYTES,
            ray_temp_root_dir=self._scratch,
        )
        self._ray.init(logging_level="ERROR")  # at the address that it has put into the environment
        up = time.perf_counter() - began
        assert first_result(self._ray) == 1
        return {"init": up, "start": time.perf_counter() - began}

    def stop(self) -> dict[str, float]:
        from ray.util.spark import shutdown_ray_cluster

        began = time.perf_counter()
        shutdown_ray_cluster()
        return {"stop": time.perf_counter() - began}


# What the serializer of Ray's Java looks into. Java 17 and newer do not let it, unless told to, and the actor whose
# answer it was to write dies. What Spark opens in the JVMs that it starts is not enough.
OPENED = ("java.io", "java.lang", "java.math", "java.net", "java.text", "java.util", "java.util.concurrent")


class RayDP:
    """Ray on this machine, and in it RayDP's Spark: the same DataFrame, its `from_spark`, and the floor there."""

    def __init__(self, scratch: str, order: Mapping[str, Any]) -> None:
        import ray
        import raydp

        self.version = raydp.__version__
        size = order["mb"] * 1_000_000
        # By the environment, or each of four kinds of JVM has to be told by a setting of its own.
        os.environ["JDK_JAVA_OPTIONS"] = " ".join(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in OPENED)
        ray.init(num_cpus=3, object_store_memory=max(3 * size, STORE_BYTES), _temp_dir=scratch, logging_level="ERROR")
        spark = raydp.init_spark("floor", 2, 1, order["memory"], configs=order["conf"])
        self._ray, self._raydp = ray, raydp
        self._df = frame(spark, order["mb"], order["partitions"])
        self._rows = counted(self._df)

    def floor(self) -> dict[str, float]:
        return {"floor": seconds_of(lambda: counted(self._df))}

    def from_spark(self) -> dict[str, float]:
        import raydp.spark

        kept: list[Any] = []
        took = seconds_of(lambda: kept.append(self._ray.data.from_spark(self._df)))
        assert kept.pop().count() == self._rows
        gc.collect()
        if hasattr(raydp.spark, "release_spark_recoverable"):  # or Spark keeps a copy of each
            raydp.spark.release_spark_recoverable(self._df)
        return {"from_spark": took}

    def end(self) -> None:
        self._raydp.stop_spark()
        self._ray.shutdown()


# ------------------------------------------------------------------------------------------ the work
def first_result(ray: Any) -> int:
    @ray.remote
    def first() -> int:
        return 1

    return int(ray.get(first.remote()))


def frame(spark: Any, mb: int, partitions: int) -> Any:
    """Seven columns: whole numbers, floats, a string; made anew in every pass."""
    from pyspark.sql import functions as F

    number = F.col("id")
    columns = [number, (number % 97).cast("int").alias("k"), *(F.rand(seed).alias(f"x{seed}") for seed in range(4))]
    rows = mb * 1_000_000 // ROW_BYTES
    return spark.range(0, rows, 1, partitions).select(*columns, F.concat(F.lit("item-"), number).alias("text"))


ROW_BYTES = 61  # of `frame`, as Arrow counts them


def counted(df: Any) -> int:
    """Rows, by Python workers that look at every batch and only count: the least that any way through Python costs."""
    answers = df.mapInArrow(count_bytes, "rows long, bytes long").collect()
    return sum(answer["rows"] for answer in answers)


def count_bytes(batches: Iterator[Any]) -> Iterator[Any]:
    import pyarrow as pa

    rows = size = 0
    for batch in batches:
        rows += batch.num_rows
        size += batch.nbytes
    yield pa.RecordBatch.from_pydict({"rows": [rows], "bytes": [size]})


def seconds_of(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# ------------------------------------------------------------------------------------------ orders and answers
def connect(order: Mapping[str, Any]) -> Any:
    """A session on that master, whose executors are up and have run Python."""
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    conf = SparkConf().setAll(list(order["conf"].items())).setMaster(order["master"]).setAppName("benchmark")
    conf.set("spark.executorEnv.PATH", os.environ["PATH"])  # Ray's nodes look for the program `ray`
    SparkContext._ensure_initialized(conf=conf)  # starts the JVM; the secret goes by its socket, on no command line
    if order["secret"]:
        conf.set("spark.authenticate.secret", order["secret"])
    spark = SparkSession(SparkContext(conf=conf))
    spark.sparkContext.setLogLevel("ERROR")
    spark.sparkContext.range(0, 8, 1, 8).map(lambda number: number).count()
    return spark


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    system: Any
    if order["system"] == "raydp":
        system = RayDP(order["scratch"], order)
        spark = None
    else:
        spark = connect(order)
        system = (Ray if order["system"] == "ray" else Sparkray)(spark, order["scratch"])
    facts = {"version": system.version, "python": sys.version.split()[0]}
    if spark is not None:
        facts["application"] = spark.sparkContext.applicationId
    answers.write(json.dumps(facts) + "\n")
    for line in sys.stdin:
        try:
            answer = getattr(system, json.loads(line)["do"])()
        except Exception as error:  # noqa: BLE001 (the parent is told)
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".strip().partition("\n")[0][:200]}
        answers.write(json.dumps(answer) + "\n")
    if spark is None:
        system.end()
    else:
        spark.stop()


if __name__ == "__main__":
    main()
