"""RayContext on a cluster: a node in each executor, started by one barrier stage, and the driver's own."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark import BarrierTaskContext, InheritableThread, SparkContext

import sparkray
from sparkray import RayContext, launch, preflight, sizing
from sparkray.launch import StartFailed
from sparkray.sizing import UnfitSpark
from sparkray.spark_facts import registered_executors, slots_of, total_slots, wait_for_executors
from sparkray_core.run.config import default_base_folder
from sparkray_core.run.processes import identify, is_alive
from tests.marks import slow

START_S = 240.0


@sparkray.remote
def where(_: int) -> tuple[str, str | None]:
    time.sleep(0.05)
    core = sparkray.session.core()
    return core.node.hex(), os.environ.get("OMP_NUM_THREADS")


def context(sc: SparkContext, **arguments: Any) -> RayContext:
    return RayContext(sc, **{"object_store_memory": "64m", "start_timeout": START_S, **arguments})


def folders() -> list[str]:
    return [str(path) for path in Path(default_base_folder()).glob("*/*")]


@pytest.fixture(autouse=True)
def spark_is_whole(cluster_sc: SparkContext) -> Iterator[None]:
    """Both executors are there before a test, and no slot is taken after it."""
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)
    yield
    deadline = time.monotonic() + 10
    while active := cluster_sc.statusTracker().getActiveJobsIds():
        assert time.monotonic() < deadline, f"jobs {active} go on"
        time.sleep(0.05)
    assert folders() == []


def test_there_is_a_node_in_each_executor_and_tasks_run_on_all(cluster_sc: SparkContext) -> None:
    with context(cluster_sc) as ctx:
        assert len(ctx.executors) == 2
        assert len({node.executor for node in ctx.executors}) == 2
        assert len({node.jvm for node in ctx.executors}) == 2
        assert all(identify(node.jvm.pid) == node.jvm for node in ctx.executors)
        assert sparkray.cluster_resources()["CPU"] == 2.0
        assert not ctx.is_local
        ran_on = sparkray.get([where.remote(i) for i in range(20)])
        assert {node for node, _ in ran_on} == {node.node.hex() for node in ctx.executors}
        assert {threads for _, threads in ran_on} == {os.environ.get("OMP_NUM_THREADS", "1")}


def test_an_object_of_the_driver_reaches_the_executors(cluster_sc: SparkContext) -> None:
    with context(cluster_sc):
        large = sparkray.put(b"x" * 10_000_000)
        assert sparkray.get([sparkray.remote(len).remote(large) for _ in range(4)]) == [10_000_000] * 4


def test_spark_goes_on_beside_the_session(cluster_sc: SparkContext) -> None:
    with context(cluster_sc):
        assert cluster_sc.parallelize(range(100), 4).map(lambda n: n + 1).sum() == 5050


def test_the_session_can_be_restarted_in_one_spark_context(cluster_sc: SparkContext) -> None:
    for _ in range(3):
        with context(cluster_sc) as ctx:
            assert len(sparkray.get([where.remote(i) for i in range(4)])) == 4
        assert ctx.last_stop.clean
        assert len(ctx.last_stop.nodes) == 3  # the driver's node too


def test_a_spark_worker_finds_the_node_of_its_executor(cluster_sc: SparkContext) -> None:
    with context(cluster_sc) as ctx:
        by_jvm = {tuple(node.jvm): node.executor for node in ctx.executors}

        def find(_: Any) -> list[tuple[str, str | None]]:
            import psutil

            from sparkray_core.run.processes import identify

            task = BarrierTaskContext.get()
            own = task.getTaskInfos()[task.partitionId()].address
            above = [tuple(identify(parent.pid) or ()) for parent in psutil.Process().parents()]
            return [(own, next((by_jvm[one] for one in above if one in by_jvm), None))]

        for own, found in cluster_sc.parallelize(range(2), 2).barrier().mapPartitions(find).collect():
            assert own == found


def test_fewer_nodes_than_executors_may_be_asked_for(cluster_sc: SparkContext) -> None:
    with context(cluster_sc, num_ray_nodes=1, ray_node_cpu_cores=3) as ctx:
        assert len(ctx.executors) == 1
        assert sparkray.cluster_resources()["CPU"] == 3.0


def test_more_nodes_than_executors_are_refused(cluster_sc: SparkContext) -> None:
    with pytest.raises(UnfitSpark, match=r"3 nodes .* Spark has 2 executors: so says the master, local-cluster"):
        context(cluster_sc, num_ray_nodes=3).init()


@contextmanager
def busy(sc: SparkContext, tasks: int, over: Path) -> Iterator[None]:
    """So many slots are taken by a job of its own, until there is a file `over`."""
    path = str(over)

    def hold(_: int) -> None:
        while not os.path.exists(path):
            time.sleep(0.05)

    def run() -> None:
        sc.setJobGroup("busy", "busy", interruptOnCancel=True)
        with suppress(Exception):  # it may be cancelled
            sc.parallelize(range(tasks), tasks).foreach(hold)

    thread = InheritableThread(target=run)
    thread.start()
    try:
        deadline = time.monotonic() + START_S
        while f"{tasks} by" not in slots_of(sc).holders():
            assert time.monotonic() < deadline, slots_of(sc)
            time.sleep(0.05)
        yield
    finally:
        sc.cancelJobGroup("busy")
        thread.join(60)


@pytest.mark.parametrize("tasks", [1, *slow(2)])
def test_busy_slots_are_waited_for_and_then_told(cluster_sc: SparkContext, tasks: int, tmp_path: Path) -> None:
    with busy(cluster_sc, tasks, tmp_path / "over"):
        with pytest.raises(StartFailed, match=rf"Of 2 slots it uses {tasks} by .* raise start_timeout"):
            context(cluster_sc, start_timeout=1.5).init()
        assert not sparkray.is_initialized()
    with context(cluster_sc):
        assert sparkray.cluster_resources()["CPU"] == 2.0


def test_the_plan_tells_whether_there_are_slots(cluster_sc: SparkContext, tmp_path: Path) -> None:
    found = context(cluster_sc).plan()
    assert (found.nodes.nodes, found.executors, found.own_store_bytes) == (2, 2, 64 << 20)
    assert "slots:          ok: 2 needed for a moment, 2 there, 0 in use" in str(found).splitlines()
    with busy(cluster_sc, 1, tmp_path / "over"):
        assert "slots:          busy: 2 needed for a moment. Of 2 slots it uses 1 by" in str(context(cluster_sc).plan())
    with pytest.raises(UnfitSpark, match="num_ray_nodes"):
        context(cluster_sc, num_ray_nodes=3).plan()
    assert not sparkray.is_initialized()


def test_the_driver_s_node_may_have_cpus(cluster_sc: SparkContext, capsys: pytest.CaptureFixture[str]) -> None:
    ctx = context(cluster_sc, verbose=True)
    try:
        ctx.init(driver_cores=1)
        assert sparkray.cluster_resources()["CPU"] == 3.0
        told = capsys.readouterr().err
        assert "sparkray: to be started:\nmaster:         local-cluster[2,1,1024]" in told
        assert "sparkray: ready after" in told
    finally:
        ctx.stop()


def test_slots_that_get_free_in_time_are_used(cluster_sc: SparkContext, tmp_path: Path) -> None:
    with busy(cluster_sc, 2, tmp_path / "over"):
        threading.Timer(1.0, (tmp_path / "over").touch).start()
        with context(cluster_sc):
            assert sparkray.cluster_resources()["CPU"] == 2.0


def test_another_version_on_the_executors_is_told(cluster_sc: SparkContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparkray, "__version__", "99.0")
    with pytest.raises(StartFailed, match=r"the driver has sparkray 99\.0, the executor at .* has"):
        context(cluster_sc).init()


def test_a_node_that_cannot_start_ends_all_and_says_why(
    cluster_sc: SparkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base folder of the nodes is open to others."""
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o777)
        monkeypatch.setenv("SPARKRAY_BASE_FOLDER", base)
        with pytest.raises(StartFailed, match=r"on the executor at .*: the node did not start: .*open to other users"):
            context(cluster_sc).init()
        assert os.listdir(base) == []
        monkeypatch.undo()
    assert not sparkray.is_initialized()


def test_a_driver_node_that_cannot_start_ends_the_others(
    cluster_sc: SparkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StartFailed("no driver today")

    monkeypatch.setattr("sparkray.cluster_session.ClusterSession.connect", refuse)
    with pytest.raises(StartFailed, match="no driver today"):
        context(cluster_sc).init()
    assert folders() == []


@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.8, 1.5])
def test_ctrl_c_during_the_start_leaves_nothing(cluster_sc: SparkContext, after_s: float) -> None:
    """At whatever moment it comes. A start that is already through is stopped as usual."""
    ctx = context(cluster_sc)
    timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        ctx.init()
        timer.join()
        time.sleep(0.1)
    except KeyboardInterrupt:  # in the start, or in the join after it: the start is undone, or through
        assert bool(ctx.executors) == ctx.initialized
    finally:
        ctx.stop()
        timer.join()


def test_shutdown_ends_all_nodes(cluster_sc: SparkContext) -> None:
    ctx = context(cluster_sc)
    ctx.init()
    keepers = [node.keeper for node in ctx.executors]
    sparkray.shutdown()

    assert not any(map(is_alive, keepers))
    assert folders() == []


def test_sparkray_is_sent_to_executors_on_other_machines(
    cluster_sc: SparkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a cluster of several machines: no path of the driver is known there, addresses are Spark's.

    sparkray may well be installed here, so the tasks only pretend to miss it until the zip is on their path.
    """
    real = sizing.plan
    pretend = r"""\g<1>if not any("sparkray-" in entry and entry.endswith(".zip") for entry in sys.path):
\g<1>    raise ImportError("not on this machine")
\g<0>"""
    task = re.sub(r"( +)import sparkray\.executor_main\n", pretend, launch._TASK)
    monkeypatch.setattr(launch, "_TASK", task)
    monkeypatch.setattr(preflight, "plan", lambda *facts: replace(real(*facts), same_machine=False))
    with context(cluster_sc) as ctx:
        assert len({node for node, _ in sparkray.get([where.remote(i) for i in range(20)])}) == 2
        folder = ctx.executors[0].folder
    assert not os.path.exists(folder)


def test_sparkray_missing_on_the_driver_s_machine_is_told(
    cluster_sc: SparkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_TASK", launch._TASK.replace("sparkray.executor_main", "sparkray.no_such_module"))
    with pytest.raises(
        StartFailed, match=r"cannot be imported by the Python of the executors .*no_such_module.*python"
    ):
        context(cluster_sc).init()


def test_spark_tells_its_executors_and_slots(cluster_sc: SparkContext) -> None:
    assert registered_executors(cluster_sc) == 2
    assert total_slots(cluster_sc) == 2


def test_the_jobs_folder_reaches_every_executor(cluster_sc: SparkContext, tmp_path: Path) -> None:
    """By way of the stores: nothing says that executors see the driver's disk."""
    (tmp_path / "sr_shipped.py").write_text("VALUE = 11\n")

    @sparkray.remote
    def use(_: int) -> tuple[str, int, str, str | None]:
        import importlib

        time.sleep(0.05)
        core = sparkray.session.core()
        value = importlib.import_module("sr_shipped").VALUE
        return core.node.hex(), value, os.getcwd(), os.environ.get("SR_A")

    env = {"working_dir": str(tmp_path), "env_vars": {"SR_A": "1"}}
    with context(cluster_sc, runtime_env=env, ray_node_cpu_cores=2) as ctx:
        seen = sparkray.get([use.remote(i) for i in range(40)], timeout=START_S)
        assert {node for node, *_ in seen} == {one.node.hex() for one in ctx.executors}
        assert {(value, variable) for _, value, _, variable in seen} == {(11, "1")}
        folders_of = {(node, folder) for node, _, folder, _ in seen}
        assert len(folders_of) == 2  # one on each node, in its own folder
        assert len({folder for _, folder in folders_of}) == 2
        _, threads = sparkray.get(where.options(num_cpus=2).remote(0), timeout=START_S)
        assert threads == os.environ.get("OMP_NUM_THREADS", "2")  # Spark's own 1 does not stay
