"""The systems that run the loops: each is ready before the clock starts, and gives the answers of all parts."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import stress_work
from micro_session import start
from stress_work import cost, part, total

Pass = Callable[[str, int], list[tuple[int, int, float]]]  # shape and n -> an answer per part, or per process

PYTHON, STATIC, COUNTER = "python", "forks_static", "forks_counter"
FLOOR = (STATIC, COUNTER)
OURS, RIVAL = "sparkray", "ray"
ON_SPARK = "sparkray_on_spark"  # the same package, its nodes in the executors of a local-cluster
OUR_POOL = "sparkray_pool"  # its multiprocessing.Pool
PACKAGES = {ON_SPARK: OURS, OUR_POOL: OURS}  # of the systems that are not called as their package is
EXECUTOR_MIB = 1024
SPARK = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.executor.cores": "1",
    "spark.executor.memory": f"{EXECUTOR_MIB}m",
    # A context is there when all executors are: with `spark.cores.max`, which says how many.
    "spark.scheduler.minRegisteredResourcesRatio": "1.0",
    "spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
_NUMBER = struct.Struct("<i")
_PIPE_BYTES = 65536  # what a pipe holds without a reader


@contextmanager
def running(system: str, cpus: int) -> Iterator[Pass]:
    with _SYSTEMS[system](cpus) as run:
        yield run


@contextmanager
def running_elsewhere(command: list[str], environment: dict[str, str]) -> Iterator[Pass]:
    """A system whose interpreter is another one: a child that answers a line with a pass, as `serve` does.

    The answer of all parts comes in one, and crosses a pipe: some tens of microseconds of a pass.
    """
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        tell, lines = child.stdin, child.stdout

        def run(shape: str, n: int) -> list[tuple[int, int, float]]:
            tell.write(f"{shape} {n}\n")
            tell.flush()
            for line in lines:
                facts = json.loads(line)
                if "error" in facts:
                    raise RuntimeError(facts["error"])
                if "answer" in facts:
                    return [tuple(facts["answer"])]
            raise RuntimeError(f"{command[0]} ended before it had answered; its last words are on stderr")

        yield run
        tell.close()


def serve(run: Pass, requests: Iterable[str]) -> Iterator[dict[str, object]]:
    """The other end."""
    for request in requests:
        shape, n = request.split()
        answer, busy_s = total(run(shape, int(n)))
        yield {"answer": [*answer, busy_s]}


@contextmanager
def _python(cpus: int) -> Iterator[Pass]:
    yield lambda shape, n: [part(shape, n, i) for i in range(1, n + 1)]


class Forks:
    """Plain processes that share nothing: forked before the clock starts, held at a pipe, one answer each.

    With parts dealt out beforehand by their cost, the dearest first to who has least, or (`dealt` False) taken one by
    one from a pipe, which is a counter that needs no lock. No system that moves work between processes can be faster
    than the better of the two, but for chance.
    """

    def __init__(self, shape: str, n: int, cpus: int, *, dealt: bool) -> None:
        self._shape, self._n = shape, n
        self._order = sorted(range(1, n + 1), key=lambda i: -cost(shape, n, i))
        if n * _NUMBER.size > _PIPE_BYTES:
            raise ValueError(f"n = {n} is too large for the shared counter: {_PIPE_BYTES // _NUMBER.size} at most")
        queue, tail = os.pipe()
        os.write(tail, b"".join(map(_NUMBER.pack, self._order)))
        os.close(tail)
        gate, self._opener = os.pipe()
        hands = self._deal(cpus)
        self._children = [self._fork(gate, iter(hand) if dealt else self._taken(queue)) for hand in hands]
        os.close(queue)
        os.close(gate)

    def run(self) -> list[tuple[int, int, float]]:
        os.close(self._opener)
        answers = []
        for _, reading in self._children:
            with os.fdopen(reading, "rb") as file:
                answers.append(pickle.loads(file.read()))
        return answers

    def end(self) -> None:
        for pid, _ in self._children:
            os.waitpid(pid, 0)

    def _deal(self, cpus: int) -> list[list[int]]:
        hands: list[list[int]] = [[] for _ in range(cpus)]
        loads = [0] * cpus
        for i in self._order:
            least = loads.index(min(loads))
            hands[least].append(i)
            loads[least] += cost(self._shape, self._n, i)
        return hands

    def _taken(self, queue: int) -> Iterator[int]:
        while number := os.read(queue, _NUMBER.size):
            yield _NUMBER.unpack(number)[0]

    def _fork(self, gate: int, numbers: Iterator[int]) -> tuple[int, int]:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writing)
            return pid, reading
        code = 1
        try:
            os.close(self._opener)
            os.read(gate, 1)  # returns when the parent closes its end
            answers = [part(self._shape, self._n, i) for i in numbers]
            os.write(writing, pickle.dumps((*total(answers)[0], total(answers)[1])))
            os.close(writing)
            code = 0
        finally:
            os._exit(code)


@contextmanager
def _pool(cpus: int, chunksize: int | None = None) -> Iterator[Pass]:
    with multiprocessing.get_context("fork").Pool(cpus) as pool:
        yield lambda shape, n: pool.map(partial(part, shape, n), range(1, n + 1), chunksize)
        pool.close()
        pool.join()


@contextmanager
def _our_pool(cpus: int) -> Iterator[Pass]:
    """The program of `_pool` with another import."""
    with session(OURS, cpus):
        from sparkray.util.multiprocessing import Pool

        with Pool(cpus) as pool:
            yield lambda shape, n: pool.map(partial(part, shape, n), range(1, n + 1))
            pool.close()
            pool.join()


@contextmanager
def _joblib(cpus: int) -> Iterator[Pass]:
    joblib: Any = importlib.import_module("joblib")
    with joblib.Parallel(n_jobs=cpus) as parallel:
        yield lambda shape, n: parallel(joblib.delayed(part)(shape, n, i) for i in range(1, n + 1))


@contextmanager
def _ray(name: str, cpus: int) -> Iterator[Pass]:
    """Ray or sparkray, by the loop that a reader of either's first page would write: a task for each i."""
    with session(name, cpus) as ray:
        remote_part = ray.remote(part)
        yield lambda shape, n: ray.get([remote_part.remote(shape, n, i) for i in range(1, n + 1)])


@contextmanager
def session(name: str, cpus: int) -> Iterator[Any]:
    """Started, and with our functions sent by value: its workers need not find this folder."""
    ray = importlib.import_module(PACKAGES.get(name, name))
    pickler: Any = importlib.import_module("ray.cloudpickle" if name == "ray" else "cloudpickle")
    pickler.register_pickle_by_value(stress_work)
    if ray.is_initialized():  # by another system of this process
        yield ray
    elif name == ON_SPARK:
        with _spark(cpus) as spark:
            context = ray.RayContext(spark)
            context.init()
            if (there := ray.cluster_resources().get("CPU")) != cpus:
                raise RuntimeError(f"the session has {there} CPUs, not {cpus}")
            yield ray
            context.stop()
    else:
        start(ray, cpus)
        yield ray
        ray.shutdown()


@contextmanager
def _spark(cpus: int) -> Iterator[Any]:
    """Executors of one core, as JVMs of their own; up, as Spark has it, before anybody looks for them."""
    for name in [name for name in os.environ if name.startswith("SPARK_")]:
        del os.environ[name]  # another Spark's
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(f"local-cluster[{cpus},1,{EXECUTOR_MIB}]").appName("stress")
    for setting, its in {**SPARK, "spark.cores.max": str(cpus)}.items():
        builder = builder.config(setting, its)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    # They have run Python before, as those of any Spark that is in use.
    spark.sparkContext.range(0, 8 * cpus, 1, 8 * cpus).map(lambda number: number).count()
    application = spark.sparkContext.applicationId
    try:
        yield spark
    finally:
        spark.stop()
        import pyspark

        # local-cluster leaves a folder inside PySpark.
        shutil.rmtree(Path(str(pyspark.__file__)).parent / "work" / application, ignore_errors=True)


_SYSTEMS: dict[str, Callable[[int], Any]] = {
    PYTHON: _python,
    "multiprocessing": _pool,
    "multiprocessing_chunk1": partial(_pool, chunksize=1),
    "joblib": _joblib,
    RIVAL: partial(_ray, RIVAL),
    OURS: partial(_ray, OURS),
    OUR_POOL: _our_pool,
    ON_SPARK: partial(_ray, ON_SPARK),
}
