"""RayContext over Spark Connect: a server in a process of its own, and no SparkContext of its here."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyspark
import pytest

import sparkray
from sparkray import RayContext, connect, launch
from sparkray.ending import NodeWatch
from sparkray.launch import StartFailed
from sparkray.sizing import UnfitSpark
from sparkray_core.run.config import default_base_folder
from sparkray_core.run.processes import Identity, identify
from tests.pages import python_of, run_program

from .conftest import CLUSTER, LOCAL, SETTINGS, START_S, remove_work_folder

pytest.importorskip("grpc", reason="Spark Connect needs sparkray[connect]")
if int(pyspark.__version__.split(".")[0]) < 4:
    pytest.skip("RayContext needs PySpark 4 for Spark Connect", allow_module_level=True)

pytestmark = pytest.mark.timeout(2 * START_S)
SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
GONE_S = 10.0
_applications: set[str] = set()  # of the server that is up


@sparkray.remote
def node_of(_: int) -> str:
    return sparkray.session.core().node.hex()


@sparkray.remote
def slowly(_: int) -> None:
    time.sleep(0.1)


@contextmanager
def connect_server(master: str, folder: Path) -> Iterator[str]:
    """A Spark Connect server; its address, as `remote` takes it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = Path(str(pyspark.__file__)).parent
    settings = {**SETTINGS, "spark.connect.grpc.binding.port": str(port), "spark.sql.warehouse.dir": str(folder / "w")}
    words = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    command = [str(home / "bin" / "spark-submit"), "--class", SERVER, "--master", master, *words, "spark-internal"]
    environment = {name: value for name, value in os.environ.items() if name != "PYSPARK_GATEWAY_PORT"}
    environment |= {"SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            assert server.poll() is None, (folder / "log").read_text()[-4000:]
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.1)
        yield f"sc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)
        while _applications:
            remove_work_folder(_applications.pop())


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def client(address: str) -> Iterator[Any]:
    from pyspark.sql.connect.session import SparkSession

    spark = SparkSession.builder.remote(address).create()
    _applications.add(str(spark.conf.get("spark.app.id")))
    try:
        yield spark
    finally:
        spark.stop()
        # PySpark 4.3 has threads for each job, which end when the job's iterator is collected: what a failed job
        # raises holds it in a cycle.
        gc.collect()


@pytest.fixture(scope="module")
def local_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with connect_server(LOCAL, tmp_path_factory.mktemp("connect")) as address:
        yield address


@pytest.fixture(scope="module")
def cluster_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with connect_server(CLUSTER, tmp_path_factory.mktemp("connect")) as address:
        yield address


@pytest.fixture
def cluster(cluster_server: str) -> Iterator[Any]:
    """A session, whose threads end with it, on a server with two executors."""
    with client(cluster_server) as spark:
        yield spark


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert [str(path) for path in Path(default_base_folder()).glob("*/*")] == []


def context(spark: Any, **arguments: Any) -> RayContext:
    return RayContext(spark, **{"object_store_memory": "64m", "start_timeout": START_S, **arguments})


def moved(spark: Any) -> list[tuple[int, int]]:
    """A DataFrame to the nodes, through a function there, and back to Spark."""
    frame = spark.range(0, 1000, 1, 4).selectExpr("id", "id % 3 as `a.b`")
    blocks = sparkray.data.from_spark(frame)
    assert (blocks.count(), blocks.num_blocks()) == (1000, 4)
    back = blocks.map_batches(lambda table: table.slice(0, 100), batch_format="pyarrow").to_spark(spark)
    return [(row["a.b"], row["count"]) for row in back.groupBy("`a.b`").count().orderBy("`a.b`").collect()]


@pytest.mark.slow
def test_the_server_s_jvm_has_a_node_that_works_on_dataframes(
    local_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with client(local_server) as spark:
        ctx = context(spark)
        assert repr(ctx) == "<RayContext on Spark Connect at 127.0.0.1: not running>"
        ctx.plan()
        shown = capsys.readouterr().out
        assert "1, started in 1 executor, by one barrier stage" in shown
        assert "2 there; how many are in use is not told" in shown
        with ctx:
            assert not ctx.is_local
            with pytest.raises(RuntimeError, match="there is no SparkContext"):
                ctx.sc  # noqa: B018
            (node,) = ctx.executors
            assert sparkray.get([node_of.remote(number) for number in range(8)]) == [node.node.hex()] * 8
            assert sparkray.cluster_resources()["CPU"] == 2.0
            assert moved(spark) == [(0, 134), (1, 133), (2, 133)]
        assert ctx.last_stop.clean, ctx.last_stop
        assert len(ctx.last_stop.nodes) == 2  # the driver's, too
        assert spark.range(7).count() == 7


@pytest.mark.slow
@pytest.mark.parametrize("server", ["that is there", "of its own"])
def test_the_program_of_the_document_runs(server: str, local_server: str, tmp_path: Path) -> None:
    """PySpark starts one for a client that names a master, which is what the program's comment proposes."""
    (program,) = python_of("docs/spark.md")
    shown = '"sc://spark.example.org"'
    assert shown in program
    assert f'remote("{LOCAL}")' in program
    address = LOCAL if server == "of its own" else local_server

    environment = {"SPARKRAY_START_LIMIT_S": str(START_S), "PYSPARK_PYTHON": sys.executable}
    printed = run_program(program.replace(shown, repr(address)), tmp_path, environment, START_S)

    assert printed == "1000000\n"


@pytest.mark.slow
def test_stopping_the_client_s_session_stops_ours_first(local_server: str) -> None:
    with client(local_server) as spark:
        ctx = context(spark)
        ctx.init()
        assert sparkray.data.from_spark(spark.range(5).select()).count() == 5  # without columns
        spark.stop()
        assert not ctx.initialized
        assert ctx.last_stop.clean, ctx.last_stop
        with pytest.raises(RuntimeError, match="session of Spark Connect"):
            ctx.init()


@pytest.mark.slow
def test_each_executor_has_a_node_and_it_can_be_started_again(cluster: Any) -> None:
    for _ in range(2):
        with context(cluster) as ctx:
            nodes = {node.node.hex() for node in ctx.executors}
            assert len(nodes) == 2
            assert len({node.jvm for node in ctx.executors}) == 2
            deadline = time.monotonic() + 60
            seen: set[str] = set()
            while seen != nodes:
                assert time.monotonic() < deadline, f"{seen} of {nodes}"
                seen |= set(sparkray.get([node_of.remote(number) for number in range(8)]))
            assert moved(cluster) == [(0, 134), (1, 133), (2, 133)]
        assert ctx.last_stop.clean, ctx.last_stop
        assert len(ctx.last_stop.nodes) == 3


@pytest.mark.slow
def test_more_nodes_than_executors_are_refused_before_anything_starts(cluster: Any) -> None:
    with pytest.raises(UnfitSpark, match=r"3 nodes .* Spark has 2 executors: so says the master, local-cluster"):
        context(cluster, num_ray_nodes=3).init()


@pytest.mark.slow
def test_executors_that_come_and_go_are_not_followed(cluster: Any) -> None:
    with pytest.raises(UnfitSpark, match="elastic=False"):
        context(cluster, elastic=True).plan()


@pytest.mark.slow
def test_a_failing_partition_s_error_reaches_the_driver(cluster: Any) -> None:
    from pyspark.errors import PySparkException

    frame = cluster.range(10).selectExpr("if(id = 7, raise_error('seven'), id) as id")
    with context(cluster), pytest.raises(PySparkException, match="seven"):
        sparkray.data.from_spark(frame)


@pytest.mark.slow
def test_an_error_of_ours_comes_out_of_spark_s(cluster: Any) -> None:
    with context(cluster, object_store_memory="1m"):
        frame = cluster.range(0, 4, 1, 2).selectExpr("id", "repeat('x', 2000000) as text")
        with pytest.raises(sparkray.exceptions.ObjectStoreFullError, match="DataFrame does not fit"):
            sparkray.data.from_spark(frame)


def plan_until_refused(ctx: RayContext, deadline: float) -> None:
    """At first, the other job may not have its slots."""
    while time.monotonic() < deadline:
        ctx.plan()


@pytest.mark.slow
def test_busy_slots_end_the_look_in_time(cluster: Any) -> None:
    import threading

    def hold(batches: Any) -> Any:
        import time

        time.sleep(600)
        yield from batches

    def run() -> None:
        cluster.addTag("busy")
        with pytest.raises(Exception, match=r"(?i)cancel"):
            cluster.range(0, 2, 1, 2).mapInArrow(hold, "id long").collect()

    began = time.monotonic()
    thread = threading.Thread(target=run)
    thread.start()
    try:
        with pytest.raises(UnfitSpark, match="did not run a first task within 3 s"):
            plan_until_refused(context(cluster, start_timeout=3), began + 60)
    finally:
        cluster.interruptTag("busy")
        thread.join(60)
    assert not thread.is_alive()


@pytest.mark.slow
def test_executors_elsewhere_get_sparkray_and_meet_at_an_address(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on other machines: nothing is taken from the driver's path, and the driver is not looked for on loopback.

    sparkray may well be installed here, so the tasks only pretend to miss it until the zip is on their path.
    """
    pretend = r"""\g<1>if not any("sparkray-" in entry and entry.endswith(".zip") for entry in sys.path):
\g<1>    raise ImportError("not on this machine")
\g<0>"""
    monkeypatch.setattr(connect, "_LOOK", re.sub(r"( +)import sparkray\.connect_main\n", pretend, connect._LOOK))
    monkeypatch.setattr(launch, "_TASK", re.sub(r"( +)import sparkray\.executor_main\n", pretend, launch._TASK))
    monkeypatch.setattr(connect, "machine", lambda: "another")
    context(cluster).plan()
    monkeypatch.delenv("SPARK_LOCAL_IP", raising=False)
    with pytest.raises(UnfitSpark, match="set SPARK_LOCAL_IP"):
        context(cluster).init()
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")

    @sparkray.remote  # by value: there are no modules of the driver's
    def here() -> str:
        return sparkray.session.core().node.hex()

    with context(cluster) as ctx:
        assert len(ctx.executors) == 2
        assert sparkray.get(here.remote()) in {node.node.hex() for node in ctx.executors}
    assert ctx.last_stop.clean, ctx.last_stop


@pytest.mark.slow
def test_an_executor_without_sparkray_that_cannot_get_it_is_told(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_LOOK", connect._LOOK.replace("sparkray.connect_main", "sparkray.no_such_module"))
    with pytest.raises(StartFailed, match="Install sparkray there"):
        context(cluster).init()


DRIVER = """
import json, sys, time
import sparkray
from pyspark.sql.connect.session import SparkSession

spark = SparkSession.builder.remote(sys.argv[1]).create()
ctx = sparkray.RayContext(spark, object_store_memory="64m", start_timeout=240)
ctx.init()

@sparkray.remote
def forever(folder):
    time.sleep(600)

refs = [forever.remote("") for _ in range(4)]
sparkray.put(b"x" * 1_000_000)
facts = [[n.node.hex(), list(n.keeper), n.folder] for n in ctx.executors]
print(json.dumps({"nodes": facts, "own": ctx._session.own.pid, "folder": ctx.address_info["session_dir"],
                  "node": ctx.address_info["node_id"], "application": spark.conf.get("spark.app.id")}), flush=True)
if sys.argv[2] == "wait":
    sparkray.get(refs)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_nothing_is_left_of_a_client_that_ends(local_server: str, how: signal.Signals | None) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, local_server, "wait" if how else "end"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    try:
        facts = json.loads(driver.stdout.readline())
        watches = [
            NodeWatch(bytes.fromhex(node), "there", Identity(*keeper), folder)
            for node, keeper, folder in facts["nodes"]
        ]
        own = identify(facts["own"])
        if own is not None:
            watches.append(NodeWatch(bytes.fromhex(facts["node"]), "driver", own, facts["folder"]))
    finally:
        if how is not None:
            driver.send_signal(how)
        driver.wait(60)
        driver.stdout.close()
    deadline = time.monotonic() + GONE_S
    while not all(node.is_gone() for node in watches):
        assert time.monotonic() < deadline, [node.report() for node in watches]
        time.sleep(0.02)
    while Path(facts["folder"]).parent.exists():
        assert time.monotonic() < deadline, facts["folder"]
        time.sleep(0.02)
    with client(local_server) as spark:  # the server goes on
        assert spark.range(3).count() == 3


@pytest.mark.slow
def test_the_session_ends_with_the_server(tmp_path: Path) -> None:
    from pyspark.sql.connect.session import SparkSession

    with connect_server(LOCAL, tmp_path) as address:
        spark = SparkSession.builder.remote(address).create()
        ctx = context(spark)
        ctx.init()
        (node,) = ctx.executors
        os.kill(node.jvm.pid, signal.SIGKILL)
        with pytest.raises(sparkray.exceptions.RaySystemError, match="session ended"):
            sparkray.get([slowly.remote(number) for number in range(1000)], timeout=60)
        assert ctx.stop().clean
        spark.client.close()  # not spark.stop(), which would look for the server for minutes
