"""A real standalone master with two workers, of this process's own: RayContext in it, and nothing left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

import sparkray
from sparkray import RayContext, standalone
from sparkray.spark_facts import wait_for_executors
from tests.chaos.kills import Kill
from tests.chaos.loads import LOADS, Load
from tests.chaos.spark_ground import SparkGround
from tests.waiting import wait_until

from .conftest import SETTINGS, START_S, Contexts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * START_S)]
EXECUTOR_MEMORY = "600m"


def start(**arguments: object) -> SparkContext:
    return sparkray.init_spark_standalone(
        **{"num_executors": 2, "executor_cores": 1, "executor_memory": EXECUTOR_MEMORY, "conf": SETTINGS, **arguments}  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def standalone_sc(contexts: Contexts) -> Iterator[SparkContext]:
    contexts.stop()
    sc = start(spark_log_level="ERROR")
    yield sc
    sparkray.stop_spark_standalone()


@sparkray.remote
def where(_: int) -> str:
    time.sleep(0.05)
    return sparkray.session.core().node.hex()


def test_each_worker_s_executor_has_a_node(standalone_sc: SparkContext) -> None:
    wait_for_executors(standalone_sc, 2, time.monotonic() + START_S)
    for _ in range(2):
        with RayContext(SparkSession(standalone_sc), object_store_memory="64m", start_timeout=START_S) as ctx:
            assert len({psutil.Process(node.jvm.pid).ppid() for node in ctx.executors}) == 2
            ran_on = sparkray.get([where.remote(i) for i in range(20)])
            assert set(ran_on) == {node.node.hex() for node in ctx.executors}
            assert standalone_sc.parallelize(range(100), 4).sum() == 4950
        assert ctx.last_stop.clean
        assert len(ctx.last_stop.nodes) == 3


def test_the_same_arguments_give_the_same_context_and_others_are_told(standalone_sc: SparkContext) -> None:
    assert start() is standalone_sc
    with pytest.raises(ValueError, match=r"spark\.cores\.max=2 instead of spark\.cores\.max=3"):
        start(num_executors=3)
    assert start() is standalone_sc
    assert start(master=standalone_sc.master) is standalone_sc  # a master of one's own, given by its address


def test_the_secret_stands_on_no_command_line(standalone_sc: SparkContext) -> None:
    """The driver's JVM may be an older one here; the daemons and executors are new."""
    assert standalone._running is not None
    family = psutil.Process(standalone._running.pid).children(recursive=True)
    assert len(family) >= 5  # master, workers, executors
    lines = [line for one in family if (line := _command_line(one))]
    assert len(lines) >= 5
    assert not any(standalone._SECRET in word for line in lines for word in line)


def _command_line(process: psutil.Process) -> list[str]:
    """Nothing of one that has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie's, too
        return []


@pytest.mark.parametrize("victim", ["executor", "raylet", "keeper"])
def test_answers_are_right_when_a_node_is_killed_under_load_and_another_follows_it(
    standalone_sc: SparkContext, victim: str
) -> None:
    """The executor that its worker daemon starts for a killed one gets a node, too; so does one that lost its node."""
    wait_for_executors(standalone_sc, 2, time.monotonic() + START_S)
    with RayContext(
        standalone_sc, object_store_memory="128m", start_timeout=START_S, ray_node_cpu_cores=2, elastic=True
    ) as ctx:
        ground, loads = SparkGround(ctx, nodes=2), [make(1) for make in LOADS]
        with ThreadPoolExecutor(len(loads)) as pool:
            for _ in range(2):
                rounds = [pool.submit(twice, load) for load in loads]
                before = set(ctx.executors)
                struck = ground.victim(Kill(0.0, victim, 0.5))
                assert struck is not None
                wait_until(lambda: any(load.verified for load in loads), "answers come", START_S)
                struck.strike()
                for done in rounds:
                    done.result(START_S)
                ground.wait_whole(START_S)
                assert len(set(ctx.executors) - before) == 1, struck.name
        assert all(load.verified for load in loads)
        assert ground.buried() == []
    assert ctx.last_stop.clean, ctx.last_stop
    wait_for_executors(standalone_sc, 2, time.monotonic() + START_S)


def twice(load: Load) -> None:
    for _ in range(2):
        load.round()


def test_another_context_on_the_same_daemons(standalone_sc: SparkContext) -> None:
    """The last: it stops the module's context."""
    master = standalone_sc.master
    standalone_sc.stop()
    again = start(conf={**SETTINGS, "spark.task.cpus": "1"}, spark_log_level="ERROR")
    assert again is not standalone_sc
    assert again.master == master
    with RayContext(again, object_store_memory="64m", start_timeout=START_S) as ctx:
        assert len(ctx.executors) == 2
    assert standalone._running is not None
    family = psutil.Process(standalone._running.pid).children(recursive=True)
    folder = standalone._running.folder
    sparkray.stop_spark_standalone()
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert not os.path.exists(folder)
    with pytest.raises(RuntimeError, match="SparkContext is stopped"):
        RayContext(again).init()


DRIVER = """
import json, sys
import sparkray
from sparkray import standalone
conf = json.loads(sys.argv[1])
sc = sparkray.init_spark_standalone(2, 1, "600m", conf=conf, driver_memory="512m", spark_log_level="OFF")
assert standalone._SECRET not in open(f"/proc/{sc._gateway.proc.pid}/cmdline").read()
ctx = sparkray.RayContext(sc, object_store_memory="64m", start_timeout=240)
ctx.init()
print(json.dumps([standalone._running.pid, standalone._running.folder]), flush=True)
sys.stdin.read() if sys.argv[2] == "wait" else None
"""


@pytest.mark.parametrize("end", ["kill", "just ends"])
def test_nothing_is_left_of_a_driver_that_does_not_stop_it(end: str) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(SETTINGS), "wait" if end == "kill" else "end"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "SPARK_LOCAL_IP": "127.0.0.1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdin is not None
    try:
        keeper, folder = json.loads(driver.stdout.readline())
        family = []
        if end == "kill":
            family = [psutil.Process(keeper), *psutil.Process(keeper).children(recursive=True)]
            assert len(family) >= 6
            driver.send_signal(signal.SIGKILL)
    finally:
        driver.wait(60)
        driver.stdin.close()
        driver.stdout.close()
    deadline = time.monotonic() + 10
    while left := [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert not Path(folder).exists()
