"""RayContext in local mode: one node, started by the driver, for the life of the one JVM."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

import sparkray
from sparkray import RayContext, init_spark_on_local
from sparkray.cluster import ExecutorNode
from sparkray.ending import StopReport
from sparkray.sizing import UnfitSpark
from sparkray.spark_session import SparkNotStarted
from sparkray_core.run.processes import identify
from tests.marks import slow


@sparkray.remote
def double(number: int) -> int:
    return 2 * number


@sparkray.remote
def variable(name: str) -> str | None:
    return os.environ.get(name)


def context(sc: Any, **arguments: Any) -> RayContext:
    return RayContext(sc, **{"object_store_memory": "64m", "start_timeout": 100, **arguments})


def test_the_session_is_this_process_s_until_it_is_stopped(local_sc: SparkContext) -> None:
    with context(local_sc) as ctx:
        assert sparkray.get([double.remote(i) for i in range(10)]) == [2 * i for i in range(10)]
        assert sparkray.get(sparkray.put(b"x" * 1_000_000)) == b"x" * 1_000_000
        assert sparkray.cluster_resources()["CPU"] == 2.0
        assert ctx.initialized
        assert ctx.is_local
        assert RayContext.get() is ctx

    assert not ctx.initialized
    assert not sparkray.is_initialized()


def test_init_is_idempotent_and_so_is_stop(local_sc: SparkContext) -> None:
    ctx = context(local_sc)
    assert ctx.stop() == StopReport()
    first = ctx.init()
    assert ctx.init() is first
    assert set(first) >= {
        "address",
        "redis_address",
        "object_store_address",
        "raylet_socket_name",
        "webui_url",
        "session_dir",
        "node_id",
        "node_ip_address",
    }
    assert ctx.redis_address == first["address"]
    report = ctx.stop()
    assert ctx.stop() == report


def test_it_can_be_started_again_and_again(local_sc: SparkContext) -> None:
    ctx = context(local_sc)
    for round_number in range(3):
        ctx.init()
        assert sparkray.get(double.remote(round_number)) == 2 * round_number
        assert ctx.stop().clean


def test_the_report_of_a_stop_counts_the_processes(local_sc: SparkContext) -> None:
    ctx = context(local_sc)
    ctx.init()
    (node,) = ctx.executors
    (ended,) = ctx.stop().nodes

    assert (ended.node, ended.left, ended.folder_removed) == (node.node, (), True)
    assert ended.ended is not None
    assert ended.ended >= 4  # keeper, zygote, head, raylet; and the workers that were up
    assert not os.path.exists(node.folder)
    assert ended.freed_bytes is not None
    assert ended.freed_bytes > 10 << 20
    assert "of memory freed" in str(ctx.last_stop)


def test_the_executor_is_the_driver_s_jvm(local_sc: SparkContext) -> None:
    with context(local_sc) as ctx:
        (node,) = ctx.executors

        def above(_: Any) -> list[list[tuple[float, ...]]]:
            import psutil

            from sparkray_core.run.processes import identify

            return [[tuple(identify(parent.pid) or ()) for parent in psutil.Process().parents()]]

        assert isinstance(node, ExecutorNode)
        assert identify(node.jvm.pid) == node.jvm
        for line in local_sc.parallelize(range(2), 2).mapPartitions(above).collect():
            assert tuple(node.jvm) in line
        assert os.path.exists(os.path.join(node.folder, "raylet.sock"))


def test_a_spark_session_will_do(local_sc: SparkContext) -> None:
    with context(SparkSession(local_sc)) as ctx:
        assert ctx.sc is local_sc


def test_the_given_amounts_are_the_node_s(local_sc: SparkContext) -> None:
    given = {
        "ray_node_cpu_cores": 3,
        "resources": {"disk": 1.5},
        "labels": {"rack": "r1"},
        "object_store_memory": "80m",
    }
    with context(local_sc, env={"COLOUR": "blue"}, **given) as ctx:
        (node,) = sparkray.nodes()
        assert {"CPU": 3.0, "disk": 1.5}.items() <= node["Resources"].items()
        assert node["Labels"] == {"rack": "r1", "ray.io/node-id": node["NodeID"]}
        assert node["ObjectStoreMemory"] == 80 << 20
        assert ctx.executors[0].cores == 3
        assert sparkray.get(variable.remote("COLOUR")) == "blue"


def test_shutdown_ends_a_ray_context_too(local_sc: SparkContext) -> None:
    ctx = context(local_sc)
    ctx.init()
    folder = ctx.executors[0].folder
    sparkray.shutdown()

    assert not ctx.initialized
    assert not os.path.exists(folder)


def test_an_exception_in_the_body_ends_the_session(local_sc: SparkContext) -> None:
    folders = []

    def body() -> None:
        with context(local_sc) as ctx:
            folders.append(ctx.executors[0].folder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert not os.path.exists(folders[0])


def test_get_starts_what_was_made_unless_told_otherwise(local_sc: SparkContext) -> None:
    ctx = context(local_sc)
    assert not RayContext.get(initialize=False).initialized
    assert RayContext.get() is ctx
    assert ctx.initialized
    ctx.purge()
    assert ctx.redis_address is None


def test_arguments_of_bigdl_are_taken_and_told(local_sc: SparkContext) -> None:
    with pytest.warns(DeprecationWarning, match="has no effect any more") as told:
        ctx = context(local_sc, redis_port=6379, redis_password="x", extra_params={"a": "b"}, system_config={})
    assert len(told) == 3
    assert all(one.filename == __file__ for one in told)
    with pytest.warns(DeprecationWarning, match=r"RayContext\.init: num_cores .* ray_node_cpu_cores="):
        ctx.init(driver_cores=0, num_cores=4)
    ctx.stop()
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_nodes'"):
        context(local_sc, num_nodes=2)
    with pytest.raises(ValueError, match="driver_cores must be a whole number"):
        ctx.init(driver_cores=-1)


def test_ray_s_system_config_sets_what_has_a_setting(local_sc: SparkContext) -> None:
    ctx = context(local_sc, system_config={"max_direct_call_object_size": 5000}, settings={"node_timeout_s": 9.0})
    assert (ctx.settings.inline_bytes, ctx.settings.node_timeout_s) == (5000, 9.0)


def test_the_plan_is_shown_and_nothing_is_started(local_sc: SparkContext, capsys: pytest.CaptureFixture[str]) -> None:
    found = context(local_sc, ray_node_cpu_cores=3).plan()

    assert found.nodes.cores == 3
    shown = capsys.readouterr().out
    assert shown == f"{found}\n"
    for line in (
        "master:         local[2]",
        "nodes:          1, started in the driver",
        "CPUs of a node: 3, shared with Spark's tasks",
        "object store:   64 MiB on each node",
        "start_timeout:  100 s",
    ):
        assert line in shown.splitlines()
    assert not sparkray.is_initialized()
    with pytest.raises(UnfitSpark, match="local-cluster"):
        context(local_sc, num_ray_nodes=2).plan()


def test_two_sessions_at_a_time_are_refused(local_sc: SparkContext) -> None:
    with context(local_sc) as ctx:
        with pytest.raises(RuntimeError, match="a sparkray session is up"):
            context(local_sc).init()
        assert ctx.initialized


def test_a_killed_node_does_not_keep_the_context_from_a_new_start(local_sc: SparkContext) -> None:
    ctx = context(local_sc)
    ctx.init()
    os.kill(ctx.executors[0].keeper.pid, 9)
    with pytest.raises(sparkray.exceptions.RayError):
        sparkray.get(sparkray.remote(_sleep).remote(60), timeout=20)
    assert not ctx.initialized
    ctx.init()
    assert sparkray.get(double.remote(4)) == 8
    assert ctx.stop().clean


def _sleep(seconds: float) -> None:
    import time

    time.sleep(seconds)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"num_ray_nodes": 2}, UnfitSpark, "local-cluster"),
        ({"num_ray_nodes": 0}, ValueError, "num_ray_nodes"),
        ({"object_store_memory": "999t"}, UnfitSpark, "ask for less"),
    ],
)
def test_what_cannot_be_is_told_at_once_and_nothing_is_left(
    local_sc: SparkContext, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    ctx = context(local_sc, **arguments)
    with pytest.raises(error, match=says):
        ctx.init()
    assert not sparkray.is_initialized()


def test_what_is_no_number_of_nodes_is_told(local_sc: SparkContext) -> None:
    with pytest.raises(ValueError, match="min_ray_nodes must be"):
        context(local_sc, elastic=True, min_ray_nodes=0)


@pytest.mark.parametrize("given", [None, "local[2]", object()])
def test_only_spark_will_do(given: Any) -> None:
    with pytest.raises(TypeError, match="takes a SparkContext or a SparkSession"):
        RayContext(given)


def test_representations_name_the_master(local_sc: SparkContext) -> None:
    ctx = context(local_sc)
    assert "not running" in repr(ctx)
    assert "not running" in ctx._repr_html_()
    with ctx:
        assert repr(ctx) == "<RayContext on local[2]: 1 node>"
        assert ctx.executors[0].node.hex() in ctx._repr_html_()


def test_the_active_spark_context_is_returned_when_it_is_the_same(local_sc: SparkContext) -> None:
    assert init_spark_on_local(2) is local_sc
    with pytest.raises(ValueError, match=r"spark\.master=local\[2\] instead of spark\.master=local\[4\]"):
        init_spark_on_local(4)


def test_obsolete_and_wrong_arguments_of_init_spark_on_local(local_sc: SparkContext) -> None:
    with pytest.warns(DeprecationWarning, match="redirect_spark_log"):
        assert init_spark_on_local(2, redirect_spark_log=False) is local_sc
    for cores in (0, "2", True, 1.5):
        with pytest.raises(ValueError, match="cores must be"):
            init_spark_on_local(cores)  # type: ignore[arg-type]


def run_script(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_missing_java_is_told_in_one_sentence(tmp_path: Path) -> None:
    done = run_script("import sparkray; sparkray.init_spark_on_local()", JAVA_HOME=str(tmp_path))

    assert SparkNotStarted.__name__ in done.stderr.splitlines()[-1]
    assert f"Spark needs Java (17 or newer for Spark 4), and there is none: JAVA_HOME is {tmp_path}" in done.stderr


@pytest.mark.parametrize("how", ["sc.stop()", *slow("SparkSession(sc).stop()", "sc.__exit__(None, None, None)")])
def test_stopping_spark_stops_the_session_first(how: str) -> None:
    """In a process of its own: it stops the SparkContext."""
    done = run_script(
        """
        import concurrent.futures, os, sparkray, time
        from pyspark.sql import SparkSession
        sc = sparkray.init_spark_on_local(1, {"spark.ui.enabled": "false"}, spark_log_level="ERROR")
        ctx = sparkray.RayContext(sc, object_store_memory="64m", start_timeout=100)
        folder = ctx.init()["session_dir"]
        assert os.path.exists(folder)
        waiting = concurrent.futures.ThreadPoolExecutor().submit(sparkray.get, sparkray.remote(time.sleep).remote(600))
        time.sleep(0.3)
        exec(os.environ["HOW"])
        assert isinstance(waiting.exception(5), sparkray.exceptions.RaySystemError), waiting
        assert not os.path.exists(folder), folder
        assert not sparkray.is_initialized()
        try:
            ctx.init()
        except RuntimeError as error:
            assert "SparkContext is stopped" in str(error), error
        else:
            raise AssertionError("it has started")
        print("fine")
        """,
        HOW=how,
    )

    assert done.stdout == "fine\n", done.stderr


def test_a_script_that_just_ends_leaves_nothing() -> None:
    done = run_script(
        """
        import sparkray
        sc = sparkray.init_spark_on_local("*", {"spark.ui.enabled": "false"}, spark_log_level="ERROR")
        ctx = sparkray.RayContext(sc, object_store_memory="64m", start_timeout=100)
        ctx.init()
        print(sparkray.get(sparkray.put(5)), ctx.executors[0].folder)
        """
    )

    five, folder = done.stdout.split()
    assert five == "5", done.stderr
    assert not os.path.exists(folder)
