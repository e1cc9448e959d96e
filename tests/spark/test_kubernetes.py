"""sparkray on a real Kubernetes, whose executors are pods with addresses of their own; this process is the driver.

`make test-k8s`; see `kubernetes.py` for what names the cluster.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

import sparkray
from sparkray import RayContext
from sparkray.cluster import ExecutorNode
from sparkray.exceptions import OutOfMemoryError
from sparkray.kubernetes_job import own_address
from sparkray.spark_facts import wait_for_executors
from sparkray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.pages import python_of
from tests.waiting import wait_until

from .conftest import SETTINGS, START_S, Contexts
from .kubernetes import EXECUTOR_MIB, GONE_S, Kubernetes, running_kubernetes, why_not
from .test_kills import DRIVER, alive, death_of, slow_square, squares

_WHY_NOT = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3 * START_S),
    pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT)),
]
STORE_MIB = 200  # more than the 64 MB that a pod's /dev/shm has
MIB = 1 << 20


@pytest.fixture(scope="module")
def kubernetes(contexts: Contexts) -> Iterator[Kubernetes]:
    contexts.end_jvm()
    before = dict(os.environ)
    os.environ.pop("SPARK_LOCAL_IP", None)  # pods have to reach this process
    os.environ.pop("PYSPARK_PYTHON", None)  # nor is the pods' Python this one
    with running_kubernetes() as running:
        SparkContext._ensure_initialized(conf=SparkConf().setAll([*SETTINGS.items(), ("spark.driver.memory", "512m")]))
        yield running
        active = SparkContext._active_spark_context
        if active is not None:
            active.stop()
        contexts.end_jvm()
    os.environ.clear()
    os.environ.update(before)


def start(kubernetes: Kubernetes, **arguments: Any) -> SparkContext:
    conf = SETTINGS | kubernetes.settings() | arguments.pop("conf", {})
    given = {
        "conda_name": None,
        "num_executors": 2,
        "executor_cores": 1,
        "executor_memory": f"{EXECUTOR_MIB}m",
        "driver_memory": "512m",
        "extra_executor_memory_for_ray": f"{EXECUTOR_MIB}m",
        "spark_log_level": "OFF",
        "python_location": sys.executable if kubernetes.mounts else None,
        **arguments,
    }
    return sparkray.init_spark_on_k8s(kubernetes.master, kubernetes.image, **given, conf=conf)


@pytest.fixture
def sc(kubernetes: Kubernetes) -> SparkContext:
    """With both executors there. One that has ended makes room for the next."""
    made = start(kubernetes)
    wait_for_executors(made, 2, time.monotonic() + START_S)
    return made


@pytest.fixture
def free(kubernetes: Kubernetes) -> Kubernetes:
    """Without an application."""
    active = SparkContext._active_spark_context
    if active is not None:
        application = active.applicationId
        active.stop()
        kubernetes.wait_until_gone(application)
    return kubernetes


@pytest.fixture
def ctx(sc: SparkContext) -> Iterator[RayContext]:
    with RayContext(sc, object_store_memory=f"{STORE_MIB}m", start_timeout=START_S) as made:
        yield made
    assert made.last_stop.clean, made.last_stop


def is_head(node: ExecutorNode) -> bool:
    (facts,) = [one for one in sparkray.nodes() if one["NodeID"] == node.node.hex()]
    return "node:__internal_head__" in facts["Resources"]


def ours_in_pods(sc: SparkContext) -> list[str]:
    """Titles of sparkray's processes in all pods."""

    def look(_: Any) -> list[str]:
        import psutil

        return [process.name() for process in psutil.process_iter() if process.name().startswith("sparkray-")]

    return [name for names in sc.parallelize(range(4), 4).map(look).collect() for name in names]


@sparkray.remote
def zeros(mib: int) -> Any:
    import numpy

    return numpy.zeros(mib * MIB, numpy.uint8)


@sparkray.remote
def sizes(*arrays: Any) -> list[int]:
    return [len(array) for array in arrays]


def test_tasks_and_dataframes_in_two_pods(kubernetes: Kubernetes, sc: SparkContext) -> None:
    assert start(kubernetes) is sc
    with pytest.raises(ValueError, match=r"spark\.executor\.instances=2 instead of spark\.executor\.instances=3"):
        start(kubernetes, num_executors=3)
    spark = SparkSession(sc)
    pods = {pod["status"]["podIP"]: name for name, pod in kubernetes.pods("spark-role=executor").items()}
    assert len(pods) == 2
    for _ in range(2):
        with RayContext(spark, object_store_memory="64m", start_timeout=START_S) as ctx:
            assert {node.host for node in ctx.executors} == set(pods)
            values = sparkray.get([slow_square.remote(number) for number in range(20)])
            assert [square for square, _ in values] == squares(20)
            assert {node for _, node in values} == {node.node.hex() for node in ctx.executors}
            blocks = sparkray.data.from_spark(spark.range(1000).repartition(4))
            doubled = blocks.map_batches(lambda frame: frame * 2, batch_format="pandas")
            assert doubled.to_spark(spark).groupBy().sum("id").collect()[0][0] == 999_000
            assert {"sparkray-keeper", "sparkray-raylet"} <= set(ours_in_pods(sc))
        assert ctx.last_stop.clean
        assert len(ctx.last_stop.nodes) == 3
        assert ours_in_pods(sc) == []


def test_what_goes_between_pods_is_encrypted(ctx: RayContext) -> None:
    mechanism = b"CURVE".ljust(20, b"\0")  # of ZMTP 3, after ten bytes of signature and two of version
    for node in ctx.executors:
        host, port = node.address.removeprefix("tcp://").rsplit(":", 1)
        with socket.create_connection((host, int(port)), 10) as probe:
            probe.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism + bytes(32))
            greeting = b""
            while len(greeting) < 32 and (more := probe.recv(64)):
                greeting += more
        assert greeting[12:32] == mechanism


def test_the_store_is_larger_than_a_pod_s_own_shared_memory(kubernetes: Kubernetes, free: Kubernetes) -> None:
    """A user's own SparkContext, without the memory volume that ours brings; then with it."""
    settings = SETTINGS | kubernetes.settings()
    settings |= {
        "spark.master": kubernetes.master,
        "spark.kubernetes.container.image": kubernetes.image,
        "spark.executor.instances": "2",
        "spark.executor.memory": f"{EXECUTOR_MIB}m",
        "spark.executor.memoryOverhead": f"{EXECUTOR_MIB}m",
        "spark.driver.host": own_address(("127.0.0.1", 1)),
    }
    if kubernetes.mounts:
        os.environ["PYSPARK_PYTHON"] = sys.executable
    sc = SparkContext(conf=SparkConf().setAppName("own").setAll(list(settings.items())))
    sc.setLogLevel("OFF")
    os.environ.pop("PYSPARK_PYTHON", None)
    assert fill_stores(sc) == {64 * MIB}
    application = sc.applicationId
    sc.stop()
    kubernetes.wait_until_gone(application)
    sc = start(kubernetes)
    assert min(fill_stores(sc)) > STORE_MIB * MIB


def fill_stores(sc: SparkContext) -> set[int]:
    """Into each node's as much as its /dev/shm could not take. Returns the sizes of those."""
    with RayContext(sc, object_store_memory=f"{STORE_MIB}m", start_timeout=START_S) as ctx:
        found = set()
        for node in ctx.executors:
            there = NodeAffinitySchedulingStrategy(node.node.hex(), soft=False)
            arrays = [zeros.options(scheduling_strategy=there).remote(40) for _ in range(4)]
            assert sparkray.get(sizes.options(scheduling_strategy=there).remote(*arrays), timeout=60) == [40 * MIB] * 4
            size, where = sparkray.get(shared_memory.options(scheduling_strategy=there).remote())
            assert where == node.node.hex()
            found.add(size)
    assert ctx.last_stop.clean
    return found


@sparkray.remote
def shared_memory() -> tuple[int, str]:
    room = os.statvfs("/dev/shm")
    return room.f_blocks * room.f_frsize, sparkray.session.core().node.hex()


@sparkray.remote
def say(what: str) -> None:
    print(what)  # noqa: T201


def test_a_pod_shows_what_is_said_in_it(kubernetes: Kubernetes, ctx: RayContext) -> None:
    sparkray.get([say.remote(f"said in a pod {k}") for k in range(8)])

    def shown() -> str:
        return "".join(kubernetes.logs(kubernetes.pod_at(node.host)) for node in ctx.executors)

    wait_until(lambda: all(f"said in a pod {k}\n" in shown() for k in range(8)), "all lines are in the pods' logs")
    assert re.search(r"\[sparkray worker-[0-9a-f]+\] said in a pod 0\n", shown())


def test_a_pod_that_is_deleted_takes_its_node_along_and_nothing_else(kubernetes: Kubernetes, ctx: RayContext) -> None:
    (kept,), (lost,) = ([node for node in ctx.executors if is_head(node) is head] for head in (True, False))
    refs = [slow_square.remote(number) for number in range(100)]
    sparkray.get(refs[0], timeout=60)
    kubernetes.kubectl("delete", "pod", kubernetes.pod_at(lost.host), "--grace-period=1", "--wait=false")
    assert [square for square, _ in sparkray.get(refs, timeout=120)] == squares(100)
    wait_until(lambda: lost.node.hex() not in alive(), "it is gone")
    says = r"Spark says of executor \d+: .*deleted"
    wait_until(lambda: re.search(says, death_of(lost)), f"nodes() says why: {death_of(lost)}")
    assert sparkray.get(slow_square.remote(5), timeout=60) == (25, kept.node.hex())


@sparkray.remote(max_retries=0)
def grow() -> int:
    held = []
    for _ in range(3 * EXECUTOR_MIB // 10):
        held.append(b"x" * (10 * MIB))
        time.sleep(0.02)
    return len(held)


def test_a_worker_is_ended_before_its_pod_is_full(kubernetes: Kubernetes, ctx: RayContext) -> None:
    before = {name: restarts(pod) for name, pod in kubernetes.pods().items()}
    with pytest.raises(OutOfMemoryError, match="memory"):
        sparkray.get(grow.remote(), timeout=60)
    assert [square for square, _ in sparkray.get([slow_square.remote(k) for k in range(20)], timeout=60)] == squares(20)
    assert {name: restarts(pod) for name, pod in kubernetes.pods().items()} == before


def restarts(pod: dict[str, Any]) -> tuple[str, int]:
    return pod["status"]["phase"], sum(one["restartCount"] for one in pod["status"]["containerStatuses"])


def test_a_pod_over_its_limit_is_killed_and_its_work_done_elsewhere(kubernetes: Kubernetes, ctx: RayContext) -> None:
    (kept,), (lost,) = ([node for node in ctx.executors if is_head(node) is head] for head in (True, False))
    pod = kubernetes.pod_at(lost.host)

    def eat(_: Any) -> list[int]:
        if os.environ["SPARK_EXECUTOR_POD_IP"] == lost.host:
            # The system kills one process, by its size and this number: it is to be the JVM, and so the pod.
            Path(f"/proc/{lost.jvm.pid}/oom_score_adj").write_text("1000")
            for _ in range(3 * EXECUTOR_MIB // 100):
                if os.fork() == 0:
                    held = bytearray(100 * MIB)
                    time.sleep(60)
                    os._exit(len(held) % 2)
            time.sleep(60)
            return [1]
        return [0]

    refs = [slow_square.remote(number) for number in range(50)]
    assert ctx.sc.parallelize(range(2), 2).mapPartitions(eat).collect() == [0, 0]  # its second attempt, elsewhere
    assert [square for square, _ in sparkray.get(refs, timeout=120)] == squares(50)
    assert sparkray.get(slow_square.remote(5), timeout=60) == (25, kept.node.hex())
    says = r"Spark says of executor \d+: (?s:.*)137"
    wait_until(lambda: re.search(says, death_of(lost)), f"nodes() says why: {death_of(lost)}")
    wait_until(lambda: pod not in kubernetes.pods(), "Spark has deleted the pod", 60)


def test_a_deleted_pod_is_replaced_in_an_elastic_session(kubernetes: Kubernetes, sc: SparkContext) -> None:
    with RayContext(sc, object_store_memory="64m", start_timeout=START_S, elastic=True) as ctx:
        wait_until(lambda: len(ctx.executors) == 2, "both executors have a node", START_S)
        lost = ctx.executors[0]
        kubernetes.kubectl("delete", "pod", kubernetes.pod_at(lost.host), "--grace-period=1", "--wait=false")
        wait_until(lambda: lost.node.hex() not in alive() and len(alive()) == 3, "another took its place", START_S)
        assert [square for square, _ in sparkray.get([slow_square.remote(k) for k in range(20)])] == squares(20)
    assert ctx.last_stop.clean


def test_nothing_is_left_of_a_killed_driver(free: Kubernetes) -> None:
    settings = SETTINGS | free.settings()
    host = own_address(("127.0.0.1", 1))
    settings |= {
        "spark.kubernetes.container.image": free.image,
        "spark.executor.memory": f"{EXECUTOR_MIB}m",
        "spark.executor.memoryOverhead": f"{EXECUTOR_MIB}m",
        "spark.executor.instances": "2",
        "spark.driver.host": host,
        "spark.driver.bindAddress": host,
    }
    python = {"PYSPARK_PYTHON": sys.executable} if free.mounts else {}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, free.master, json.dumps(settings)],
        env=os.environ | python | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    try:
        facts = json.loads(driver.stdout.readline())
        assert free.left(facts["application"])
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stdout.close()
    free.wait_until_gone(facts["application"])
    wait_until(lambda: not Path(facts["folder"]).parent.exists(), "the driver's folder is gone")


IN_POD = """
import json, sys, time
import sparkray
sc = sparkray.init_spark_on_k8s(*sys.argv[1:3], None, 2, 1, "600m", "512m", 1, "600m", conf=json.loads(sys.argv[3]))
with sparkray.RayContext(sc, object_store_memory="64m", start_timeout=240):
    print(sum(sparkray.get([sparkray.remote(abs).remote(-k) for k in range(100)])), "in a pod", flush=True)
    time.sleep(600)
"""


def test_a_driver_in_a_pod_takes_its_executors_along(free: Kubernetes) -> None:
    """Namespace and pod are told by what Kubernetes puts into a pod."""
    conf = SETTINGS | free.settings()
    conf.pop("spark.kubernetes.namespace")
    python = "python3"
    if free.mounts:
        python = conf["spark.pyspark.python"] = sys.executable
    free.run_pod("notebook", python, "-c", IN_POD, f"k8s://{free.master_in_pods()}", free.image, json.dumps(conf))
    wait_until(lambda: "4950 in a pod" in free.logs("notebook") or failed(free, "notebook"), "it has a result", START_S)
    assert "4950 in a pod" in free.logs("notebook"), free.logs("notebook")
    assert len(free.pods("spark-role=executor")) == 2
    free.kubectl("delete", "pod", "notebook", "--grace-period=0", "--force", "--wait=false")
    wait_until(lambda: not free.pods(), "no pod is left", 2 * GONE_S)


def failed(kubernetes: Kubernetes, pod: str) -> bool:
    return bool(kubernetes.pods()[pod]["status"]["phase"] == "Failed")


PAGE = "docs/kubernetes.md"


@pytest.mark.parametrize("mode", ["client", "cluster"])
def test_the_script_of_the_page_runs_in(mode: str, free: Kubernetes, tmp_path: Path) -> None:
    """As it stands there; what belongs to this cluster comes from Spark's own folder of settings."""
    settings = SETTINGS | (free.settings() if mode == "client" else free.settings_in_cluster_mode(tmp_path))
    if free.mounts:
        settings["spark.pyspark.python"] = sys.executable
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "spark-defaults.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    script = tmp_path / "program.py"
    script.write_text(python_of(PAGE)[0])
    done = subprocess.run(
        [sys.executable, str(script), free.master, free.image, mode],
        env=os.environ | {"SPARK_CONF_DIR": str(conf)},
        capture_output=True,
        text=True,
        timeout=START_S,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    if mode == "cluster":
        (driver,) = free.pods("spark-role=driver")
        said = free.logs(driver)
        free.kubectl("delete", "pod", driver)
    assert "328350 on 2 nodes" in said, said + done.stderr
    wait_until(lambda: not free.pods(), "no pod is left", 60)


FAILS = """
import sys
import sparkray
sc = sparkray.init_spark_on_k8s_cluster(*sys.argv[1:3], 1, 1, "600m", "512m", 1, extra_python_lib=sys.argv[3])
assert sparkray.init_spark_on_k8s(*sys.argv[1:3], None, 1, 1) is sc
import beside
assert sc.parallelize([0], 1).map(lambda _: beside.CODE).collect() == [3]
raise SystemExit(beside.CODE)
"""


def test_a_script_that_fails_in_its_pod_fails_here(free: Kubernetes, tmp_path: Path) -> None:
    settings = SETTINGS | free.settings_in_cluster_mode(tmp_path)
    if free.mounts:
        settings["spark.pyspark.python"] = sys.executable
    (tmp_path / "spark-defaults.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    (tmp_path / "fails.py").write_text(FAILS)
    (tmp_path / "beside.py").write_text("CODE = 3")
    done = subprocess.run(
        [sys.executable, "fails.py", free.master, free.image, "beside.py"],
        env=os.environ | {"SPARK_CONF_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=START_S,
        cwd=tmp_path,
        check=False,
    )
    (driver,) = free.pods("spark-role=driver")
    said = free.logs(driver)
    (ended,) = free.pods("spark-role=driver")[driver]["status"]["containerStatuses"]
    free.kubectl("delete", "pod", driver)
    assert ended["state"]["terminated"]["exitCode"] == 3, said
    assert done.returncode == 3, done.stdout + done.stderr
    wait_until(lambda: not free.pods(), "no pod is left", 60)


def test_an_environment_travels(free: Kubernetes, tmp_path: Path) -> None:
    """As an archive: a venv, where the pods have the Python that it was made with; else one that goes on to theirs."""
    environment = tmp_path / "env"
    if free.mounts:
        venv.create(environment, symlinks=True)
        (modules,) = environment.glob("lib/python*/site-packages")
        (modules / "others.pth").write_text(f"import sys; sys.path.append({sysconfig.get_paths()['purelib']!r})\n")
    else:
        modules = environment / "lib"
        modules.mkdir(parents=True)
        (environment / "bin").mkdir()
        python = environment / "bin/python"
        python.write_text('#!/bin/sh\nPYTHONPATH="$(dirname "$0")/../lib:$PYTHONPATH" exec python3 "$@"\n')
        python.chmod(0o755)
    (modules / "only_there.py").write_text("WORD = 'travelled'")
    (tmp_path / "extra.py").write_text("WORD = 'as well'")
    given: dict[str, Any] = {"extra_python_lib": str(tmp_path / "extra.py"), "python_location": None}
    if free.mounts:
        given["conda_name"] = str(environment)
    else:
        with tarfile.open(tmp_path / "env.tar.gz", "w:gz") as archive:
            archive.add(environment, ".")
        given["penv_archive"] = str(tmp_path / "env.tar.gz")
    sc = start(free, **given)
    assert start(free, **given) is sc

    @sparkray.remote
    def look_here() -> tuple[str, ...]:
        import extra  # type: ignore[import-not-found]
        import only_there  # type: ignore[import-not-found]

        return only_there.WORD, extra.WORD, str(only_there.__file__), sys.executable, os.environ["PYSPARK_PYTHON"]

    with RayContext(sc, object_store_memory="64m", start_timeout=START_S) as ctx:
        *words, module, executable, python_of_pods = sparkray.get(look_here.remote())
    assert words == ["travelled", "as well"]
    assert "/python_env/" in module
    assert python_of_pods == executable
    assert os.path.isabs(executable)
    assert ctx.last_stop.clean
    application = sc.applicationId
    sc.stop()
    free.wait_until_gone(application)
