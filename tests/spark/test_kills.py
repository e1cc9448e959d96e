"""SIGKILL to each kind of process there is. Whatever dies, within ten seconds nothing is left of what lived for it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyspark import SparkContext

import sparkray
from sparkray import RayContext
from sparkray.cluster import ExecutorNode
from sparkray.ending import NodeWatch
from sparkray.exceptions import ActorDiedError, RayError, RaySystemError
from sparkray.spark_facts import wait_for_executors
from sparkray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from sparkray_core.run.processes import Identity, identify
from tests.marks import slow

GONE_S = 10.0
START_S = 240.0


@sparkray.remote
def slow_square(number: int) -> tuple[int, str]:
    time.sleep(0.1)
    return number * number, sparkray.session.core().node.hex()


@sparkray.remote
def pid_of_worker() -> int:
    return os.getpid()


def squares(count: int) -> list[int]:
    return [number * number for number in range(count)]


def wait_until(condition: Callable[[], object], what: str, limit: float = GONE_S) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit, f"not within {limit:g} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def watch(node: ExecutorNode) -> NodeWatch:
    return NodeWatch(node.node, node.host, node.keeper, node.folder)


def named(node: ExecutorNode, name: str) -> int:
    """The process of the node that has this name."""
    keeper = psutil.Process(node.keeper.pid)
    found = [one.pid for one in [keeper, *keeper.children(recursive=True)] if one.name() == f"sparkray-{name}"]
    assert found, f"{node.executor} has no {name}"
    return found[0]


def hosts_head(node: ExecutorNode) -> bool:
    return any(one.name() == "sparkray-head" for one in psutil.Process(node.keeper.pid).children())


@pytest.fixture
def ctx(cluster_sc: SparkContext) -> Iterator[RayContext]:
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)
    with RayContext(cluster_sc, object_store_memory="64m", start_timeout=START_S) as made:
        yield made
    assert made.last_stop.clean, made.last_stop
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)  # Spark starts another executor for a killed one


class _Resident:
    def here(self) -> None: ...


Resident = sparkray.remote(_Resident)


EXIT_137 = "Spark says of executor .: Command exited with code 137"


def alive() -> list[str]:
    return [node["NodeID"] for node in sparkray.nodes() if node["Alive"]]


def death_of(node: ExecutorNode) -> str:
    (found,) = [one for one in sparkray.nodes() if one["NodeID"] == node.node.hex()]
    return str(found["DeathReasonMessage"])


def failure_of(ref: sparkray.ObjectRef[Any]) -> str:
    with pytest.raises(RayError) as caught:
        sparkray.get(ref, timeout=60)
    return str(caught.value)


def head_node(ctx: RayContext) -> ExecutorNode:
    (found,) = [node for node in ctx.executors if hosts_head(node)]
    return found


def other_node(ctx: RayContext) -> ExecutorNode:
    (found,) = [node for node in ctx.executors if not hosts_head(node)]
    return found


def test_the_tasks_of_a_killed_worker_are_run_again_and_right(ctx: RayContext) -> None:
    sparkray.get(slow_square.remote(0))
    refs = [slow_square.remote(number) for number in range(20)]
    os.kill(named(other_node(ctx), "worker"), signal.SIGKILL)

    assert [square for square, _ in sparkray.get(refs, timeout=60)] == squares(20)
    assert ctx.initialized
    assert len([node for node in sparkray.nodes() if node["Alive"]]) == 3


@pytest.mark.parametrize("victim", ["raylet", "executor", *slow("keeper", "zygote")])
def test_the_session_goes_on_without_a_killed_node(ctx: RayContext, victim: str) -> None:
    lost, kept = other_node(ctx), head_node(ctx)
    gone = watch(lost)
    at_lost = NodeAffinitySchedulingStrategy(lost.node.hex(), soft=False)
    there = Resident.options(num_cpus=0, scheduling_strategy=at_lost).remote()
    refs = [slow_square.remote(number) for number in range(30)]
    sparkray.get([refs[0], there.here.remote()], timeout=60)
    os.kill(lost.jvm.pid if victim == "executor" else named(lost, victim), signal.SIGKILL)

    wait_until(gone.is_gone, f"{victim} killed: the node is gone")
    values = sparkray.get(refs, timeout=60)
    assert [square for square, _ in values] == squares(30)
    assert sparkray.get(slow_square.remote(5), timeout=60) == (25, kept.node.hex())
    wait_until(lambda: lost.node.hex() not in alive(), "the head has noticed")
    assert kept.node.hex() in alive()
    says = EXIT_137 if victim == "executor" else f"executor {lost.executor_id} .* lives on"
    wait_until(lambda: re.search(says, death_of(lost)), "nodes() says why")
    with pytest.raises(ActorDiedError, match=f"its node {lost.node.hex()} died: (?s:.*){says}"):
        sparkray.get(there.here.remote(), timeout=60)
    assert [re.search(says, node.lost) is not None for node in ctx.stop().nodes if node.lost] == [True]


@sparkray.remote
def block(number: int, *others: bytes) -> bytes:
    """Large enough to lie in a store."""
    time.sleep(0.02)
    return bytes([number + sum(other[0] for other in others)]) * 300_000


@pytest.mark.slow
def test_blocks_of_a_killed_executor_are_made_again(ctx: RayContext) -> None:
    rows = [block.remote(number) for number in range(12)]
    sums = [block.remote(number, row, rows[number - 1]) for number, row in enumerate(rows)]
    expected = [number + number + (number - 1) % 12 for number in range(12)]
    sparkray.wait(sums, num_returns=6, timeout=60)
    gone = watch(other_node(ctx))
    os.kill(other_node(ctx).jvm.pid, signal.SIGKILL)

    assert [value[0] for value in sparkray.get(sums, timeout=60)] == expected
    wait_until(gone.is_gone, "executor killed: the node is gone")
    again = [block.remote(0, row) for row in [*rows, *sums]]
    assert [value[0] for value in sparkray.get(again, timeout=60)] == [*range(12), *expected]


def test_the_session_outlives_its_gcs(ctx: RayContext) -> None:
    refs = [slow_square.remote(number) for number in range(100)]
    sparkray.get(refs[0], timeout=60)
    os.kill(named(head_node(ctx), "head"), signal.SIGKILL)
    there = [Resident.remote() for _ in range(2)]

    assert len(sparkray.get([one.here.remote() for one in there], timeout=60)) == 2
    assert [square for square, _ in sparkray.get(refs, timeout=60)] == squares(100)
    assert len([node for node in sparkray.nodes() if node["Alive"]]) == 3


@pytest.mark.parametrize("victim", ["executor", *slow("raylet", "keeper")])
def test_the_session_ends_with_its_head(ctx: RayContext, victim: str) -> None:
    head = head_node(ctx)
    gone = [watch(node) for node in ctx.executors]
    refs = [slow_square.remote(number) for number in range(1000)]
    os.kill(head.jvm.pid if victim == "executor" else named(head, victim), signal.SIGKILL)

    with pytest.raises(RaySystemError, match="session ended"):
        sparkray.get(refs, timeout=60)
    for node in gone:
        wait_until(node.is_gone, f"{victim} killed: {node.report()}")
    assert not ctx.initialized
    if victim == "executor":
        says = f"session ended: .*{head.node.hex()}(?s:.*){EXIT_137}"
        wait_until(lambda: re.search(says, failure_of(refs[-1])), "errors say why")
        assert [re.search(EXIT_137, node.lost) is not None for node in ctx.stop().nodes if node.lost] == [True]


@pytest.mark.parametrize("victim", ["raylet", "keeper"])
def test_the_session_ends_with_the_driver_s_node(ctx: RayContext, victim: str) -> None:
    gone = [watch(node) for node in ctx.executors]
    own = ctx._session.own if ctx._session is not None else None
    assert own is not None
    keeper = psutil.Process(own.pid)
    pid = next(one.pid for one in [keeper, *keeper.children()] if one.name() == f"sparkray-{victim}")
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(RaySystemError, match="session ended"):
        sparkray.get([slow_square.remote(number) for number in range(1000)], timeout=60)
    for node in gone:
        wait_until(node.is_gone, f"{victim} killed: {node.report()}")


# ------------------------------------------------------------------------------------------ the driver
DRIVER = """
import json, os, sys, time
import sparkray
from pyspark import SparkConf, SparkContext

settings = json.loads(sys.argv[2])
sc = SparkContext(conf=SparkConf().setAll(list(settings.items())).setMaster(sys.argv[1]).setAppName("killed"))
sc.setLogLevel("OFF")
ctx = sparkray.RayContext(sc, object_store_memory="64m", start_timeout=240)
ctx.init()

@sparkray.remote
def forever(folder):
    time.sleep(600)

refs = [forever.remote("") for _ in range(4)]
sparkray.put(b"x" * 1_000_000)
facts = [[n.node.hex(), n.host, list(n.jvm), list(n.keeper), n.folder] for n in ctx.executors]
print(json.dumps({"nodes": facts, "own": ctx._session.own.pid, "folder": ctx.address_info["session_dir"],
                  "node": ctx.address_info["node_id"], "application": sc.applicationId}), flush=True)
sparkray.get(refs)
"""


def watches_of(facts: Any) -> list[NodeWatch]:
    """The nodes that `DRIVER` has told of, its own included."""
    own = identify(facts["own"])
    assert own is not None
    return [
        *(
            NodeWatch(bytes.fromhex(node), host, Identity(*keeper), folder)
            for node, host, _, keeper, folder in facts["nodes"]
        ),
        NodeWatch(bytes.fromhex(facts["node"]), "driver", own, facts["folder"]),
    ]


@pytest.mark.parametrize(
    ("master", "how"),
    [
        ("local-cluster[2,1,1024]", signal.SIGKILL),
        pytest.param("local-cluster[2,1,1024]", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("local[2]", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("local[2]", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_of_a_killed_driver(master: str, how: signal.Signals) -> None:
    from .conftest import SETTINGS, remove_work_folder

    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, master, json.dumps(SETTINGS)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    try:
        facts = json.loads(driver.stdout.readline())
        watches = watches_of(facts)
        jvms = [Identity(*jvm) for _, _, jvm, _, _ in facts["nodes"]]
        assert all(identify(jvm.pid) == jvm for jvm in jvms)
    finally:
        driver.send_signal(how)
        driver.wait()
        driver.stdout.close()
    for node in watches:
        wait_until(node.is_gone, f"{node.report()}")
    assert not Path(facts["folder"]).parent.exists()
    for jvm in jvms:
        wait_until(lambda jvm=jvm: identify(jvm.pid) != jvm, f"JVM {jvm} has ended")  # type: ignore[misc]
    remove_work_folder(facts["application"])
