"""Who becomes the head, who waits for it, and what ends a start; and Spark's errors in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

import sparkray
from sparkray.gathering import Gathering
from sparkray.spark_facts import in_one_sentence
from sparkray.versions import versions


def here(address: str = "h:1") -> dict[str, Any]:
    return {"kind": "here", "address": address, "versions": versions()}


def ready(head_address: str = "tcp://h:9") -> dict[str, Any]:
    return {"kind": "ready", "head_address": head_address}


def start(hosts_head: bool) -> dict[str, Any]:
    return {"kind": "start", "hosts_head": hosts_head}


def head(address: str) -> dict[str, Any]:
    return {"kind": "head", "address": address}


def test_the_first_to_come_hosts_the_head_and_the_others_wait_for_it() -> None:
    gathering = Gathering(3)

    assert gathering.said("a", here("h:1")) == [("a", start(True))]
    assert gathering.said("b", here("h:2")) == [("b", start(False))]
    assert gathering.said("a", ready("tcp://h:9")) == [("b", head("tcp://h:9"))]
    assert gathering.said("c", here("h:3")) == [("c", start(False)), ("c", head("tcp://h:9"))]
    assert gathering.said("c", ready()) == []
    assert not gathering.complete
    assert gathering.said("b", ready()) == []
    assert gathering.complete


def test_another_version_ends_the_start() -> None:
    gathering = Gathering(2)

    assert gathering.said("a", {**here("h:1"), "versions": {**versions(), "sparkray": "0.0.7"}}) == []
    assert gathering.failure == (
        f"the driver has sparkray {sparkray.__version__}, the executor at h:1 has 0.0.7: install the same version on "
        "both"
    )


def test_doubts_about_an_executor_s_packages_are_kept_and_the_start_goes_on() -> None:
    gathering = Gathering(1)

    assert gathering.said("a", {**here("h:1"), "versions": {**versions(), "pyarrow": "1.0"}}) == [("a", start(True))]
    (doubt,) = gathering.doubts
    assert doubt.startswith("the executor at h:1 has pyarrow 1.0 instead of")


def test_the_first_failure_is_the_one_that_is_told() -> None:
    gathering = Gathering(2)
    gathering.said("a", here("h:1"))
    gathering.said("b", here("h:2"))
    gathering.said("a", {"kind": "failed", "address": "h:1", "why": "no room"})
    gathering.left("b")

    assert gathering.failure == "on the executor at h:1: no room"
    assert not gathering.complete


def test_a_task_that_leaves_ends_the_start_even_when_its_node_was_ready() -> None:
    gathering = Gathering(2)
    gathering.said("a", here("h:1"))
    gathering.said("a", ready())
    gathering.left("a")

    assert gathering.failure == "the Spark task on the executor at h:1 ended too early"


def test_an_unknown_word_is_a_failure_and_not_a_crash() -> None:
    gathering = Gathering(1)
    gathering.said("a", {"kind": "greetings"})

    assert gathering.failure is not None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            "pyspark.errors.exceptions.base.PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker has "
            "different version: 3.10 than that in driver: 3.11, PySpark cannot run with different minor versions.",
            "the executors run another Python version than the driver: 3.10 there, 3.11 here. Set PYSPARK_PYTHON",
        ),
        (
            "[PYTHON_VERSION_MISMATCH] Python in worker has different version 3.9 than that in driver 3.12, PySpark",
            "the executors run another Python version than the driver: 3.9 there, 3.12 here. Set PYSPARK_PYTHON",
        ),
        (
            'java.io.IOException: Cannot run program "/no/python": error=2, No such file or directory',
            "the executors cannot run /no/python. Set PYSPARK_PYTHON",
        ),
        ("BarrierJobSlotsNumberCheckFailed: [SPARK-24819]: Barrier execution", "Spark has fewer slots"),
        ("BarrierJobRunWithDynamicAllocationException: [SPARK-24942]", "spark.dynamicAllocation.enabled=false"),
        ("something else", "the Spark job that starts the nodes failed: something else"),
    ],
)
def test_spark_s_errors_are_put_shortly(error: str, sentence: str) -> None:
    assert sentence in in_one_sentence(error)
