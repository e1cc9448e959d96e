"""sparkray on a real YARN, a ResourceManager and two NodeManagers on this machine; this process is the driver."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

import sparkray
from sparkray import RayContext
from sparkray.cluster_session import ExecutorNode
from sparkray.ending import NodeWatch
from sparkray.exceptions import OutOfMemoryError, RayError, RaySystemError
from sparkray.spark_facts import wait_for_executors
from sparkray.sparks import ClassicSpark
from sparkray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from sparkray_core.run.processes import identify
from tests.pages import python_of

from .conda import conda_environment
from .conftest import SETTINGS, START_S, Contexts
from .test_kills import (
    DRIVER,
    Resident,
    alive,
    death_of,
    failure_of,
    head_node,
    other_node,
    slow_square,
    squares,
    wait_until,
    watch,
    watches_of,
)
from .yarn import EXECUTOR_MIB, Yarn, running_yarn

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * START_S)]
GONE_S = 10.0


@pytest.fixture(scope="module")
def yarn(contexts: Contexts) -> Iterator[Yarn]:
    """The driver's JVM has to know of it from its start."""
    contexts.end_jvm()
    before = dict(os.environ)
    with running_yarn(Path(tempfile.mkdtemp(prefix="sparkray-yarn-"))) as running:
        os.environ["HADOOP_CONF_DIR"] = str(running.conf)
        SparkContext._ensure_initialized(conf=SparkConf().setAll([*SETTINGS.items(), ("spark.driver.memory", "512m")]))
        yield running
        active = SparkContext._active_spark_context
        if active is not None:
            active.stop()
        contexts.end_jvm()
    os.environ.clear()
    os.environ.update(before)


def start(yarn: Yarn, **arguments: Any) -> SparkContext:
    conf = SETTINGS | yarn.settings() | arguments.pop("conf", {})
    given = {
        "hadoop_conf": str(yarn.conf),
        "conda_name": None,
        "num_executors": 2,
        "executor_cores": 1,
        "executor_memory": f"{EXECUTOR_MIB}m",
        "driver_memory": "512m",
        "extra_executor_memory_for_ray": f"{EXECUTOR_MIB}m",
        "spark_log_level": "OFF",
        **arguments,
    }
    return sparkray.init_spark_on_yarn(**given, conf=conf)


@pytest.fixture
def yarn_sc(yarn: Yarn) -> SparkContext:
    """With both executors there. One that has ended makes room for the next."""
    sc = start(yarn)
    wait_for_executors(sc, 2, time.monotonic() + START_S)
    return sc


@pytest.fixture
def free_yarn(yarn: Yarn) -> Yarn:
    """With room for an application."""
    active = SparkContext._active_spark_context
    if active is not None:
        application = active.applicationId
        active.stop()
        yarn.wait_for_end(application)
    return yarn


@pytest.fixture
def ctx(yarn_sc: SparkContext) -> Iterator[RayContext]:
    with RayContext(yarn_sc, object_store_memory="64m", start_timeout=START_S) as made:
        yield made
    assert made.last_stop.clean, made.last_stop


def on(node: ExecutorNode) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.node.hex(), soft=False)


def wait_gone(watches: list[NodeWatch], limit: float = GONE_S) -> None:
    for node in watches:
        wait_until(node.is_gone, f"{node.report()}", limit)


def test_tasks_and_dataframes_on_both_node_managers(yarn: Yarn, yarn_sc: SparkContext) -> None:
    assert start(yarn) is yarn_sc
    with pytest.raises(ValueError, match=r"spark\.executor\.instances=2 instead of spark\.executor\.instances=3"):
        start(yarn, num_executors=3)
    spark = SparkSession(yarn_sc)
    for _ in range(2):
        with RayContext(spark, object_store_memory="64m", start_timeout=START_S) as ctx:
            assert {yarn.node_of(node.jvm.pid) for node in ctx.executors} == {0, 1}
            values = sparkray.get([slow_square.remote(number) for number in range(20)])
            assert [square for square, _ in values] == squares(20)
            assert {node for _, node in values} == {node.node.hex() for node in ctx.executors}
            for node in ctx.executors:
                assert sparkray.get(tokens.options(scheduling_strategy=on(node)).remote()) == (b"HDTS", node.node.hex())
            blocks = sparkray.data.from_spark(spark.range(1000).repartition(4))
            doubled = blocks.map_batches(lambda frame: frame * 2, batch_format="pandas")
            assert doubled.to_spark(spark).groupBy().sum("id").collect()[0][0] == 999_000
            watches = [watch(node) for node in ctx.executors]
        assert ctx.last_stop.clean
        assert len(ctx.last_stop.nodes) == 3
        wait_gone(watches)


@sparkray.remote
def tokens() -> tuple[bytes, str]:
    """How the file begins that has the container's security tokens, and where this is."""
    with open(os.environ["HADOOP_TOKEN_FILE_LOCATION"], "rb") as file:
        return file.read(4), sparkray.session.core().node.hex()


@sparkray.remote
def say(what: str) -> None:
    print(what)  # noqa: T201


def wait_until_collected(yarn: Yarn, application: str) -> bytes:
    """What YARN has of both nodes' logs, with all its files' names and contents."""

    def files() -> list[Path]:
        names = yarn.logs.glob(f"*/*/*/{application}/[!.]*")  # beside each there is a hidden one with its checksum
        return [path for path in names if path.is_file()]

    wait_until(lambda: len(files()) == 2 and not any(path.suffix == ".tmp" for path in files()), "logs are there", 60)
    return b"".join(path.read_bytes() for path in files())


@sparkray.remote(max_retries=0)
def eat(mib: int) -> int:
    """Some 100 MiB a second: slowly enough to be noticed before a container is full."""
    held: list[bytearray] = []
    while sum(map(len, held)) < mib << 20:
        held.append(bytearray(b"x" * (10 << 20)))
        time.sleep(0.1)
    return len(held)


def test_a_worker_is_ended_before_its_container_is_full(yarn: Yarn, ctx: RayContext) -> None:
    node = other_node(ctx)
    processes = [psutil.Process(one.jvm.pid) for one in ctx.executors]
    with pytest.raises(
        OutOfMemoryError, match=r"of 1\.17 GiB of memory were in use .* is ended(?s:.*) leased for eat\(\)"
    ):
        sparkray.get(eat.options(scheduling_strategy=on(node)).remote(4 * EXECUTOR_MIB), timeout=120)
    values = sparkray.get([slow_square.options(scheduling_strategy=on(one)).remote(3) for one in ctx.executors])
    assert values == [(9, one.node.hex()) for one in ctx.executors]
    assert all(process.is_running() for process in processes)  # psutil compares the start times, too
    application = yarn.application(ctx.sc.applicationId)
    assert (application["runningContainers"], application["state"]) == (3, "RUNNING")


OVER_LIMIT = r"Spark says of executor \d+: .*(beyond the 'PHYSICAL' memory limit|exceeding physical memory limits)"


def test_a_container_over_its_limit_takes_its_node_along_and_its_end_is_explained(
    yarn: Yarn, ctx: RayContext, caplog: pytest.LogCaptureFixture
) -> None:
    kept, lost = head_node(ctx), other_node(ctx)
    gone, jvm = watch(lost), lost.jvm.pid
    there = Resident.options(num_cpus=0, scheduling_strategy=on(lost)).remote()
    sparkray.get(there.here.remote(), timeout=60)

    def grab(_: Any) -> list[int]:
        import psutil

        if jvm in [process.pid for process in psutil.Process().parents()]:
            held = []
            for _ in range(3 * EXECUTOR_MIB // 10):
                held.append(bytearray(b"x" * (10 << 20)))
                time.sleep(0.1)  # or YARN might look before sparkray has
            time.sleep(60)
        return [0]

    assert ctx.sc.parallelize(range(2), 2).mapPartitions(grab).collect() == [0, 0]  # its second attempt, elsewhere
    wait_gone([gone])
    assert sparkray.get(slow_square.remote(5), timeout=60) == (25, kept.node.hex())
    wait_until(lambda: lost.node.hex() not in alive(), "the head has noticed")
    wait_until(lambda: re.search(OVER_LIMIT, death_of(lost)), f"nodes() says why: {death_of(lost)}", 20)
    words = "WARNING memory: [0-9]+ of [0-9]+ MiB are in use. The container's largest: .*python"
    with pytest.raises(RayError, match=f"{OVER_LIMIT}(?s:.*){words}"):  # it died, or was ended before to save memory
        sparkray.get(there.here.remote(), timeout=60)
    assert re.search(OVER_LIMIT, caplog.text)


def test_an_application_killed_by_yarn_ends_the_session_with_a_word(yarn: Yarn, yarn_sc: SparkContext) -> None:
    with RayContext(yarn_sc, object_store_memory="64m", start_timeout=START_S) as ctx:
        watches = [watch(node) for node in ctx.executors]
        sparkray.get([say.remote(f"said on YARN by {number}") for number in range(8)])
        refs = [slow_square.remote(number) for number in range(1000)]
        yarn.kill_application(yarn_sc.applicationId)
        with pytest.raises(RaySystemError, match="session ended"):
            sparkray.get(refs, timeout=60)
        wait_gone(watches)
        assert yarn.wait_for_end(yarn_sc.applicationId)["finalStatus"] == "KILLED"
        wait_until(lambda: "was killed by user" in failure_of(refs[-1]), f"YARN says why: {failure_of(refs[-1])}")
    assert ctx.last_stop.clean
    assert "was killed by user" in str(ctx.last_stop)
    with pytest.raises(RuntimeError, match="SparkContext is stopped, by you or by its cluster's manager"):
        RayContext(yarn_sc).init()
    logs = wait_until_collected(yarn, yarn_sc.applicationId)
    assert all(f"said on YARN by {number}".encode() in logs for number in range(8))
    assert {b"raylet", b"keeper", b"worker"} <= set(re.findall(rb"sparkray-[0-9a-f]{8}-([a-z]+)", logs))


def test_nothing_is_left_of_a_killed_driver(free_yarn: Yarn) -> None:
    yarn = free_yarn
    settings = (
        SETTINGS
        | yarn.settings()
        | {
            "spark.executor.memory": f"{EXECUTOR_MIB}m",
            "spark.executor.instances": "2",
        }
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, "yarn", json.dumps(settings)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HADOOP_CONF_DIR": str(yarn.conf)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    try:
        facts = json.loads(driver.stdout.readline())
        watches = watches_of(facts)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stdout.close()
    wait_gone(watches)
    assert not Path(facts["folder"]).parent.exists()
    yarn.wait_for_end(facts["application"])


PAGE = "docs/yarn.md"


@pytest.mark.parametrize("mode", ["client", "cluster"])
def test_the_script_of_the_page_runs_in(mode: str, free_yarn: Yarn, tmp_path: Path) -> None:
    """As it stands there; what belongs to this cluster comes from Spark's and Hadoop's own folders of settings."""
    yarn = free_yarn
    settings = SETTINGS | yarn.settings()
    defaults = "".join(f"{name} {value}\n" for name, value in settings.items())
    (tmp_path / "spark-defaults.conf").write_text(defaults)
    script = tmp_path / "program.py"
    script.write_text(python_of(PAGE)[0])
    before = yarn.applications()
    done = subprocess.run(
        [sys.executable, str(script), mode],
        env=os.environ | {"HADOOP_CONF_DIR": str(yarn.conf), "SPARK_CONF_DIR": str(tmp_path)},
        capture_output=True,
        timeout=START_S,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    (application,) = yarn.applications() - before
    assert yarn.wait_for_end(application)["finalStatus"] == "SUCCEEDED"
    said = done.stdout if mode == "client" else wait_until_collected(yarn, application)
    assert b"328350 on 2 nodes" in said


FAILS = """
import sys
import sparkray
import sparkray_core.run.memory
sc = sparkray.init_spark_on_yarn_cluster(
    None, None, 1, 1, "600m", driver_memory="512m", extra_executor_memory_for_ray="600m", py_files=sys.argv[1]
)
assert sparkray.init_spark_on_yarn(None, None, 1, 1) is sc
import beside
with sparkray.RayContext(sc, object_store_memory="64m") as ctx:
    own = ctx._session.own.config
    assert own.container_bytes == (512 + 600) << 20, own
    used = sparkray_core.run.memory.WatchedContainer(own.container_bytes, (own.container_pid,), lambda: 0).read().used
    assert own.container_bytes / 8 < used < own.container_bytes, used  # its JVM, this process and all that it started
raise SystemExit(beside.CODE)
"""


def test_a_script_that_fails_in_its_container_fails_here_and_its_node_knows_the_container(
    free_yarn: Yarn, tmp_path: Path
) -> None:
    yarn = free_yarn
    defaults = SETTINGS | yarn.settings() | {"spark.yarn.maxAppAttempts": "1"}
    (tmp_path / "spark-defaults.conf").write_text("".join(f"{name} {value}\n" for name, value in defaults.items()))
    (tmp_path / "fails.py").write_text(FAILS)
    (tmp_path / "beside.py").write_text("CODE = 3")
    before = yarn.applications()
    done = subprocess.run(
        [sys.executable, "fails.py", "beside.py"],
        env=os.environ | {"HADOOP_CONF_DIR": str(yarn.conf), "SPARK_CONF_DIR": str(tmp_path)},
        capture_output=True,
        timeout=START_S,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, (done.stdout + done.stderr).decode()
    (application,) = yarn.applications() - before
    found = yarn.application(application)
    assert found["finalStatus"] == "FAILED"
    assert "User application exited with status 3" in found["diagnostics"]


@pytest.mark.parametrize("kind", ["venv", "conda"])
def test_an_environment_travels(kind: str, free_yarn: Yarn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As to other machines, which share no folder with the driver. It has all but sparkray, which is sent."""
    yarn = free_yarn
    monkeypatch.setattr(ClassicSpark, "same_machine", False)
    if kind == "conda":
        environment = conda_environment(tmp_path)
    else:
        environment = tmp_path / "env"
        venv.create(environment, symlinks=True)
    (modules,) = environment.glob("lib/python*/site-packages")
    (modules / "others.pth").write_text(f"import sys; sys.path.append({sysconfig.get_paths()['purelib']!r})\n")
    (modules / "only_there.py").write_text("WORD = 'travelled'")
    (tmp_path / "extra.py").write_text("WORD = 'as well'")
    (tmp_path / "me.keytab").write_text("no key")
    conf = {"spark.yarn.dist.files": (tmp_path / "me.keytab").as_uri()}
    sc = start(yarn, conda_name=str(environment), extra_python_lib=str(tmp_path / "extra.py"), conf=conf)
    assert start(yarn, conda_name=str(environment)) is sc

    def look(_: Any = None) -> tuple[str, ...]:
        import extra  # type: ignore[import-not-found]
        import only_there  # type: ignore[import-not-found]

        return sys.prefix, only_there.WORD, extra.WORD

    @sparkray.remote
    def look_here() -> tuple[str, ...]:
        keytab = Path(os.environ["PWD"], "me.keytab").read_text()
        return (*look(), keytab, os.environ["PYSPARK_PYTHON"], str(sparkray.__file__))

    assert {tuple(words) for _, *words in sc.parallelize(range(2), 2).map(look).collect()} == {("travelled", "as well")}
    with RayContext(sc, object_store_memory="64m", start_timeout=START_S) as ctx:
        prefix, *words, python, module = sparkray.get(look_here.remote())
        watches = [watch(node) for node in ctx.executors]
    assert words == ["travelled", "as well", "no key"]
    assert str(yarn.folder) in prefix
    assert python == f"{prefix}/bin/python"
    assert re.search(r"/sparkray-[0-9a-f]{12}\.zip/sparkray/__init__\.py$", module)
    assert ctx.last_stop.clean
    wait_gone(watches)
    assert "PYSPARK_PYTHON" not in os.environ or os.path.isabs(os.environ["PYSPARK_PYTHON"])
    sc.stop()


def test_a_node_manager_s_end_takes_its_node_along_once_yarn_knows(yarn: Yarn, yarn_sc: SparkContext) -> None:
    """The last: a NodeManager is missing after it. YARN gives up a silent one, Spark then its executor."""
    with RayContext(yarn_sc, object_store_memory="64m", start_timeout=START_S, elastic=True) as ctx:
        wait_until(lambda: len(ctx.executors) == 2, "both executors have a node", START_S)
        masters = {yarn.node_of(pid) for pid in yarn.application_masters()}
        (lost,) = [node for node in ctx.executors if yarn.node_of(node.jvm.pid) not in masters]
        (kept,) = [node for node in ctx.executors if node is not lost]
        gone = watch(lost)
        refs = [slow_square.remote(number) for number in range(300)]
        yarn.kill_node_manager(yarn.node_of(lost.jvm.pid))
        wait_until(lambda: identify(lost.jvm.pid) != lost.jvm, "Spark has ended the executor", 120)
        wait_gone([gone])
        assert [square for square, _ in sparkray.get(refs, timeout=60)] == squares(300)
        assert sparkray.get(slow_square.remote(5), timeout=60) == (25, kept.node.hex())
    assert ctx.last_stop.clean
