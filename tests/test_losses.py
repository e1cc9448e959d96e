"""Spark's word for an executor's end, joined with the engine's: who is asked, how long, and what is said."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import pytest

from sparkray import losses
from sparkray.cluster_session import ExecutorNode
from sparkray.losses import Losses, in_words
from sparkray_core.ids import NodeId
from sparkray_core.run.obituaries import Obituaries
from sparkray_core.run.processes import Identity, identify
from sparkray_core.testing.builders import node_id
from tests.waiting import wait_until

A, B = node_id("a"), node_id("b")
GONE = Identity(2**22 + 1, 1.0)


class FakeCore:
    def __init__(self) -> None:
        self.obituaries = Obituaries()
        self.explained: dict[NodeId, str] = {}

    def explain_node(self, node: NodeId, sentence: str) -> None:
        self.obituaries.explain(node, sentence)
        self.explained[node] = sentence


class FakeSpark:
    def __init__(self) -> None:
        self.knows: dict[str, str] = {}
        self.asked = threading.Event()

    def why_lost(self, executor_id: str) -> str | None:
        self.asked.set()
        return self.knows.get(executor_id)


def executor(node: NodeId, number: str, jvm: Identity = GONE, hosts_head: bool = False) -> ExecutorNode:
    return ExecutorNode(node, "here", f"here:{number}", jvm, GONE, "", "", 1, 1, number, hosts_head)


class Bench:
    def __init__(self, *executors: ExecutorNode) -> None:
        self.core, self.spark = FakeCore(), FakeSpark()
        core: Any = self.core
        spark: Any = self.spark
        self.losses = Losses(spark, core, "here", lambda: executors)


def test_one_warning_joins_what_spark_says_with_what_the_node_said(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(executor(A, "0"), executor(B, "1", hosts_head=True))
    assert bench.core.obituaries.head == B
    bench.core.obituaries.said(A, ["10:00:00 WARNING memory: 590 of 600 MiB are in use"])
    bench.core.obituaries.gone(A, "silent for 10 s")
    assert bench.spark.asked.wait(10)
    assert bench.core.explained == {}
    bench.spark.knows["0"] = "Command exited with code 137"
    wait_until(lambda: bench.core.explained, "it is told", 10)

    sentence = (
        "Spark says of executor 0: Command exited with code 137 (137: SIGKILL, as by the system when memory runs out)"
    )
    assert bench.losses.close() == bench.core.explained == {A: sentence}
    (record,) = [record for record in caplog.records if record.name == "sparkray.losses"]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"node {A.hex()} on here (executor 0 at here:0) is gone: silent for 10 s\n  {sentence}\n"
        f"  The last that node {A.hex()} has warned of:\n    10:00:00 WARNING memory: 590 of 600 MiB are in use"
    )
    assert sentence in bench.core.obituaries.completed(f"its node {A.hex()} died: silent for 10 s")


def test_an_executor_that_spark_has_let_go_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(executor(A, "0"))
    bench.spark.knows["0"] = "Executor killed by driver."
    with caplog.at_level(logging.INFO):
        bench.core.obituaries.gone(A, "its node was ended")
        wait_until(lambda: bench.core.explained, "it is told", 10)
        bench.losses.close()
    assert [record.levelno for record in caplog.records if record.name == "sparkray.losses"] == [logging.INFO]


def test_nodes_that_are_no_executor_s_are_not_asked_about() -> None:
    bench = Bench(executor(A, "0"))
    bench.core.obituaries.gone(B, "a driver's")
    assert bench.losses._thread is None
    assert bench.losses.close() == {}


def test_what_spark_does_not_say_in_time_is_told_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "ASK_S", 0.05)
    monkeypatch.setattr(losses, "POLL_S", 0.01)
    bench = Bench(executor(A, "0"))
    bench.core.obituaries.gone(A, "silent for 10 s")
    wait_until(lambda: bench.core.explained, "it is told", 10)
    assert bench.losses.close() == {A: "Spark has said nothing of the end of executor 0 within 0 s; it may live on"}


def test_an_executor_that_lives_on_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "OUTLIVES_S", 0.0)
    me = identify(os.getpid())
    assert me is not None
    bench = Bench(executor(A, "0", jvm=me))
    bench.core.obituaries.gone(A, "its node was ended")
    wait_until(lambda: bench.core.explained, "it is told", 10)
    lives = f"Its executor 0 (process {os.getpid()}) lives on: sparkray's own processes there were ended"
    assert bench.losses.close() == {A: lives}


def test_a_stop_does_not_wait_long_for_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "LAST_ASK_S", 0.05)
    monkeypatch.setattr(losses, "POLL_S", 0.01)
    bench = Bench(executor(A, "0"))
    bench.core.obituaries.gone(A, "silent")
    assert list(bench.losses.close()) == [A]
    bench.core.obituaries.gone(B, "silent")
    assert bench.losses._thread is None


YARN_LIMIT = (
    "Container killed by YARN for exceeding physical memory limits. 2.6 GB of 1.2 GB physical memory used. Consider "
    "boosting spark.executor.memoryOverhead."
)
YARN_KILLED = (
    "Container from a bad node: container_1_0001_01_000002 on host: 127.0.0.1. Exit status: 143. Diagnostics: "
    "[2026-11-29 01:02:03.456]Container killed on request. Exit code is 143\n"
    "[2026-11-29 01:02:03.460]Container exited with a non-zero exit code 143.\n"
    "[2026-11-29 01:02:03.460]Killed by external signal\n.\n"
)
POD = """
The executor with id 1 exited with exit code 137(SIGKILL, possible container OOM).



The API gave the following container statuses:


\t container name: spark-kubernetes-executor
\t container state: terminated
\t termination reason: OOMKilled
      """

EVICTED = """
The executor with id 4 exited with exit code 143(unexpected).
The API gave the following brief reason: Evicted
The API gave the following message: The node was low on resource: ephemeral-storage.

The API gave the following container statuses:

    exit code: 143
    termination reason: Error
"""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Executor heartbeat timed out after 125012 ms", "Executor heartbeat timed out after 125012 ms"),
        (YARN_LIMIT, YARN_LIMIT),
        (
            YARN_KILLED,
            "Container from a bad node: container_1_0001_01_000002 on host: 127.0.0.1. Exit status: 143. Diagnostics: "
            "Container killed on request. Exit code is 143 Container exited with a non-zero exit code 143. Killed by "
            "external signal . (143: SIGTERM, as by the cluster's manager)",
        ),
        (POD, "The executor with id 1 exited with exit code 137(SIGKILL, possible container OOM). (OOMKilled)"),
        (
            EVICTED,
            "The executor with id 4 exited with exit code 143(unexpected). The API gave the following brief reason: "
            "Evicted The API gave the following message: The node was low on resource: ephemeral-storage. (143: "
            "SIGTERM, as by the cluster's manager)",
        ),
        ("Error: boom\n\tat a.B.c(D.java:1)\n\tat e.F$g(H.scala:2)", "Error: boom"),
        ("x" * 2000, "x" * 500 + "..."),
    ],
)
def test_spark_s_words_without_times_and_traces(said: str, told: str) -> None:
    assert in_words(said) == told
