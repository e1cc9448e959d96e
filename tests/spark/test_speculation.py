"""Two attempts of one partition at once, on a standalone Spark of two hosts: one's blocks count, and no others stay.

Spark starts a second attempt on another host only, so there are workers on 127.0.0.1 and on 127.0.0.2.
"""

from __future__ import annotations

import gc
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyspark
import pytest
from pyspark import RDD, SparkContext
from pyspark.sql import SparkSession

import sparkray
from sparkray import RayContext, session
from sparkray.data import Dataset, lifetimes
from sparkray.spark_facts import wait_for_executors
from sparkray_core.ids import NodeId, raylet_of
from tests.waiting import wait_until

from .conftest import SETTINGS, START_S, Contexts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * START_S)]

HOSTS = ("127.0.0.1", "127.0.0.2")
WAIT_S = 60.0
PARTITIONS, ROWS = 4, 400_000
SLOW = 1  # this partition's first attempt waits when it has given most of its rows
BLOCK_BYTES = 100_000
MASTER = re.compile(r"Starting Spark master at (spark://\S+)")
REGISTERED = re.compile("Successfully registered with master")
SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "50ms",
    "spark.speculation.minTaskRuntime": "100ms",
    "spark.speculation.multiplier": "1.1",
    "spark.speculation.quantile": "0.5",
    # Of the attempt that has lost, the Python worker is killed after 2 s, otherwise: here it lives to do harm.
    "spark.python.task.killTimeout": f"{START_S}s",
}


# ------------------------------------------------------------------------------------------ Spark on two hosts
@contextmanager
def daemon(folder: Path, host: str, name: str, *words: str) -> Iterator[Callable[[re.Pattern[str]], re.Match[str]]]:
    """One of Spark's, and what waits for a line of its log."""
    home = Path(str(pyspark.__file__)).parent
    log = folder / f"{host}.{name}.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PYSPARK_"))}
    environment |= {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": host, "SPARK_DAEMON_MEMORY": "512m"}
    command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name.lower()}.{name}"]
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [*command, "--host", host, "--port", "0", "--webui-port", "0", *words],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )

    def hear(pattern: re.Pattern[str]) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            assert process.poll() is None, log.read_text()[-4000:]
            return pattern.search(log.read_text(errors="replace"))

        heard = wait_until(found, f"{name} on {host} says {pattern.pattern!r}", limit=START_S)
        assert heard is not None
        return heard

    try:
        yield hear
    finally:
        process.terminate()
        process.wait(WAIT_S)


@pytest.fixture(scope="module")
def sc(contexts: Contexts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkContext]:
    try:
        socket.create_server((HOSTS[1], 0)).close()
    except OSError as error:
        pytest.skip(f"this machine has no {HOSTS[1]}: {error}")
    contexts.stop()
    folder = tmp_path_factory.mktemp("standalone")
    size = ("--cores", "1", "--memory", "1g", "--work-dir", str(folder / "work"))
    with daemon(folder, HOSTS[0], "Master") as master:
        address = master(MASTER).group(1)
        with (
            daemon(folder, HOSTS[0], "Worker", *size, address) as one,
            daemon(folder, HOSTS[1], "Worker", *size, address) as other,
        ):
            for worker in (one, other):
                worker(REGISTERED)
            conf = {**SETTINGS, **SPECULATION}
            made = sparkray.init_spark_standalone(2, 1, "600m", master=address, conf=conf, spark_log_level="ERROR")
            try:
                wait_for_executors(made, 2, time.monotonic() + START_S)
                yield made
            finally:
                made.stop()


@pytest.fixture(scope="module")
def ray(sc: SparkContext) -> Iterator[RayContext]:
    with RayContext(sc, object_store_memory="128m", start_timeout=START_S) as ctx:
        assert len(ctx.executors) == 2
        yield ctx
    assert ctx.last_stop.clean, ctx.last_stop


# ------------------------------------------------------------------------------------------ two attempts
class Race:
    """Notes who runs, and holds both attempts of a partition until it is told to let go of one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def slowed(self) -> Callable[[int, Iterable[Any]], Iterable[Any]]:
        """What passes all on, by partition; nested, so that executors need not find this module."""
        folder, slow, limit = str(self.folder), SLOW, WAIT_S

        def run(partition: int, items: Iterable[Any]) -> Iterator[Any]:
            import os
            import time

            def note(name: str) -> bool:
                """Whether we are the first."""
                try:
                    os.close(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return False
                return True

            def wait_for(name: str) -> None:
                deadline = time.monotonic() + limit
                while not os.path.exists(os.path.join(folder, name)):
                    assert time.monotonic() < deadline, f"nobody made {name}"
                    time.sleep(0.01)

            if partition != slow:
                yield from items
                return
            if not note("first"):
                assert note("second"), "a third attempt"
                wait_for("let go of the second")
                yield from items
                return
            everything = list(items)  # Spark sends no more to an attempt that has lost
            most = len(everything) * 9 // 10  # what is between two processes holds back some
            try:
                yield from everything[:most]
                note("most")
                wait_for("let go of the first")
                yield from everything[most:]
            finally:
                note("the first is over")

        return run

    def seen(self, name: str) -> None:
        wait_until((self.folder / name).exists, f"{name}; there are {sorted(os.listdir(self.folder))}", limit=WAIT_S)

    def let_go_of(self, which: str) -> None:
        (self.folder / f"let go of the {which}").touch()

    def run(self, transfer: Callable[[], Dataset]) -> tuple[Dataset, int]:
        """The dataset, and how many objects there were while both attempts ran, the second without a row."""
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(transfer)
            try:
                self.seen("most")
                self.seen("second")  # no retry: those come when the first is over
                assert not (self.folder / "the first is over").exists()
                assert not made.done()
                before = settled()
            finally:
                self.let_go_of("second")
            return made.result(START_S), before


@pytest.fixture
def race(tmp_path: Path) -> Race:
    return Race(tmp_path)


def status(what: str, nodes: Iterable[NodeId] | None = None) -> list[int]:
    """Of each node; not given: of all, the driver's too."""
    core = session.core()
    core.kick()
    if nodes is None:
        nodes = [NodeId(bytes.fromhex(node["NodeID"])) for node in sparkray.nodes() if node["Alive"]]
    return [core.ask(raylet_of(node), "status")[what] for node in nodes]


def of_executors(what: str) -> int:
    ctx = RayContext.get()
    return sum(status(what, [executor.node for executor in ctx.executors]))


def settled() -> int:
    """Objects of the executors, once the partitions without a race are there and all that the first attempt gave is."""
    seen: list[tuple[int, float]] = []

    def unchanged() -> int:
        objects, now = of_executors("objects"), time.monotonic()
        if not seen or seen[-1][0] != objects:
            seen[:] = [(objects, now)]
        return objects if now - seen[-1][1] > 1.0 else 0

    return wait_until(unchanged, "the stores do not change any more", limit=WAIT_S)


def check(dataset: Dataset, while_both_ran: int, column: str) -> None:
    """Every row once, in order; the second attempt's blocks, and nothing of the first's, which had stored some."""
    table = dataset.to_arrow()
    assert table[column].to_pylist() == list(range(ROWS))
    assert dataset.num_blocks() % PARTITIONS == 0
    of_others = dataset.num_blocks() // PARTITIONS * (PARTITIONS - 1)
    assert while_both_ran > of_others, "the first attempt had stored nothing"


def check_stores(dataset: Dataset, used_before: list[int]) -> None:
    blocks = dataset.num_blocks()  # the driver's node may have copies, of those that were read there
    wait_until(lambda: of_executors("objects") == blocks, f"only the {blocks} blocks are there", limit=WAIT_S)
    dataset.release()
    gc.collect()
    wait_until(let_go_of_all, "no object is left", limit=WAIT_S)
    assert status("store_used") == used_before


def let_go_of_all() -> bool:
    sparkray.session.core().kick()
    lifetimes.let_go()
    return not any(status("objects"))


# ------------------------------------------------------------------------------------------ the tests
def test_a_dataframe_has_each_row_once_though_two_attempts_of_a_partition_ran(ray: RayContext, race: Race) -> None:
    used = status("store_used")
    slowed = race.slowed()

    def run(batches: Any) -> Any:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        yield from slowed(context.partitionId(), batches)

    frame = SparkSession(ray.sc).range(0, ROWS, 1, PARTITIONS).mapInArrow(run, "id long")
    dataset, while_both_ran = race.run(lambda: sparkray.data.from_spark(frame, target_block_bytes=BLOCK_BYTES))

    check(dataset, while_both_ran, "id")
    race.let_go_of("first")
    check_stores(dataset, used)
    race.seen("the first is over")


def test_an_attempt_that_goes_on_storing_when_all_is_over_leaves_nothing(ray: RayContext, race: Race) -> None:
    """Records of an RDD are made and stored by one process: it does not hear that another attempt has won."""
    used = status("store_used")
    rdd: RDD[int] = ray.sc.range(0, ROWS, 1, PARTITIONS).mapPartitionsWithIndex(race.slowed())
    dataset, while_both_ran = race.run(lambda: sparkray.data.from_rdd(rdd, target_block_bytes=BLOCK_BYTES))

    check(dataset, while_both_ran, "item")
    assert not (race.folder / "the first is over").exists()
    race.let_go_of("first")
    race.seen("the first is over")
    check_stores(dataset, used)
