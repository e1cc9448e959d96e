"""Nodes that come and go with Spark's executors: with dynamic allocation, and with `elastic=True`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark import SparkContext

import sparkray
from sparkray import RayContext
from sparkray.ending import NodeWatch
from sparkray.launch import StartFailed
from sparkray.spark_facts import wait_for_executors
from tests.waiting import wait_until

from .conftest import SETTINGS, START_S, remove_work_folder
from .test_ray_context import busy

pytestmark = pytest.mark.timeout(2 * START_S)
JOIN_S = 120.0  # Spark has to start a JVM first, and that a Python


@sparkray.remote
def where(seconds: float) -> str:
    time.sleep(seconds)
    return sparkray.session.core().node.hex()


def context(sc: SparkContext, **arguments: Any) -> RayContext:
    return RayContext(sc, **{"object_store_memory": "64m", "start_timeout": START_S, "elastic": True, **arguments})


@pytest.fixture(autouse=True)
def spark_is_whole(cluster_sc: SparkContext) -> Iterator[None]:
    """Both executors are there before a test and after it, and no slot is taken then."""
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)
    yield
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)
    wait_until(lambda: not cluster_sc.statusTracker().getActiveJobsIds(), "jobs go on", limit=JOIN_S)


@pytest.mark.slow
def test_with_dynamic_allocation_the_nodes_meet_at_the_driver(
    cluster_sc: SparkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spark is only said to allocate dynamically: what is shown is the start without a barrier stage."""
    changed = cluster_sc.getConf().set("spark.dynamicAllocation.enabled", "true")
    monkeypatch.setattr(cluster_sc, "getConf", lambda: changed)
    with context(cluster_sc, elastic=False) as ctx:
        assert len({node.jvm for node in ctx.executors}) == 2
        assert sparkray.cluster_resources()["CPU"] == 2.0
        ran_on = sparkray.get([where.remote(0.05) for _ in range(20)], timeout=START_S)
        assert set(ran_on) == {node.node.hex() for node in ctx.executors}
        wait_until(lambda: not cluster_sc.statusTracker().getActiveJobsIds(), "Spark has its slots back", limit=JOIN_S)
        assert cluster_sc.parallelize(range(100), 4).sum() == 4950
    assert ctx.last_stop.clean
    assert len(ctx.last_stop.nodes) == 3


DYNAMIC = """
import json, sys
import sparkray
from pyspark import SparkConf, SparkContext

wished = {"enabled": "true", "minExecutors": "0", "initialExecutors": "0", "maxExecutors": "2"}
settings = {**json.loads(sys.argv[1]), **{f"spark.dynamicAllocation.{name}": value for name, value in wished.items()}}
sc = SparkContext(conf=SparkConf().setAll(list(settings.items())).setMaster("local-cluster[2,1,1024]"))
sc.setLogLevel("OFF")
with sparkray.RayContext(sc, num_ray_nodes=2, object_store_memory="64m", start_timeout=240) as ctx:
    assert sparkray.get(sparkray.remote(abs).remote(-3)) == 3
    jvms = len({node.jvm for node in ctx.executors})
print(json.dumps([jvms, ctx.last_stop.clean, sc.applicationId]))
sc.stop()
"""


@pytest.mark.slow
def test_dynamic_allocation_gives_executors_for_the_nodes_that_are_wanted() -> None:
    """In a process of its own: Spark begins without any executor."""
    done = subprocess.run(
        [sys.executable, "-c", DYNAMIC, json.dumps(SETTINGS)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=2 * START_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    jvms, clean, application = json.loads(done.stdout)
    remove_work_folder(application)
    assert (jvms, clean) == (2, True)


@pytest.mark.slow
def test_a_session_begins_with_a_quorum_and_the_rest_joins(cluster_sc: SparkContext, tmp_path: Path) -> None:
    with busy(cluster_sc, 1, tmp_path / "over"):
        with pytest.raises(StartFailed, match=r"[01] of 2 nodes were up .* slots it uses 1 by .*min_ray_nodes"):
            context(cluster_sc, start_timeout=8).init()
        ctx = context(cluster_sc, min_ray_nodes=1)
        ctx.init()
        try:
            assert len(ctx.executors) == 1
            assert sparkray.get(where.remote(0), timeout=START_S) == ctx.executors[0].node.hex()
            (tmp_path / "over").touch()
            wait_until(lambda: len(ctx.executors) == 2, "the other executor's node has joined", limit=JOIN_S)
            assert sparkray.cluster_resources()["CPU"] == 2.0
        finally:
            ctx.stop()
    assert ctx.last_stop.clean


@pytest.mark.slow
def test_an_executor_that_spark_brings_back_is_joined_again(cluster_sc: SparkContext) -> None:
    with context(cluster_sc) as ctx:
        first, second = ctx.executors
        gone = NodeWatch(first.node, first.host, first.keeper, first.folder)
        refs = [where.remote(0.2) for _ in range(20)]
        os.kill(first.jvm.pid, signal.SIGKILL)

        assert len(sparkray.get(refs, timeout=START_S)) == 20
        wait_until(gone.is_gone, "the lost executor's node is gone", limit=JOIN_S)
        wait_until(lambda: len(ctx.executors) == 3, "the new executor's node has joined", limit=JOIN_S)
        new = ctx.executors[2].node.hex()
        alive = {node["NodeID"] for node in sparkray.nodes() if node["Alive"]}
        assert {new, second.node.hex()} <= alive
        ran_on = sparkray.get([where.remote(0.1) for _ in range(20)], timeout=START_S)
        assert new in ran_on
    assert ctx.last_stop.clean
