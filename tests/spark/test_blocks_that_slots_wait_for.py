"""A lost block whose readers leave no slot for the job that makes it again, and one that nobody can make again."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark import SparkContext
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import sparkray
from sparkray import RayContext, session
from sparkray.data import Dataset
from sparkray.exceptions import ObjectReconstructionFailedError
from sparkray_core.ids import ObjectId
from sparkray_core.run.guest import Guest
from tests.waiting import wait_until

from .conftest import START_S, Contexts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(START_S)]
LIMIT_S = 60.0
ROWS = 10_000
SUM = ROWS * (ROWS - 1) // 2


def numbers(spark: SparkSession, blocks: int = 1) -> Dataset:
    dataset = sparkray.data.from_spark(spark.range(0, ROWS, 1, blocks))
    assert dataset.num_blocks() == blocks
    return dataset


def lose(dataset: Dataset) -> None:
    """Behind its owner's back."""
    core = session.core()
    with Guest(core.folder, core.token, core.node) as guest:
        guest.free([ObjectId(ref.binary()) for ref in dataset.refs])


def total(frame: DataFrame) -> int:
    return int(frame.agg(F.sum("id")).collect()[0][0])


@contextlib.contextmanager
def one_slot_taken(sc: SparkContext, folder: Path) -> Iterator[None]:
    """By a job that is older than whatever runs meanwhile."""
    begun, go_on = folder / "begun", folder / "go on"

    def hold(_: object) -> None:
        import time

        begun.touch()
        while not go_on.exists():
            time.sleep(0.01)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        holding = threads.submit(sc.parallelize([0], 1).foreach, hold)
        try:
            wait_until(begun.exists, "the job has its slot", limit=LIMIT_S)
            yield
            assert not holding.done()
        finally:
            go_on.touch()
            holding.result(LIMIT_S)


@contextlib.contextmanager
def short_waits(sc: SparkContext) -> Iterator[SparkSession]:
    with RayContext(sc, object_store_memory="64m", start_timeout=START_S, settings={"lost_block_wait_s": 1}):
        yield SparkSession(sc)


@pytest.fixture(scope="module")
def fair_sc(contexts: Contexts) -> SparkContext:
    """Two slots. (In local mode Spark gives a task one attempt, unless the master says another number.)"""
    return contexts.get("local[2,4]", {"spark.scheduler.mode": "FAIR"})


def test_an_action_that_waits_in_the_last_slot_says_so_and_the_next_one_finds_the_block(
    local_sc: SparkContext, tmp_path: Path
) -> None:
    with short_waits(local_sc) as spark:
        dataset = numbers(spark)
        frame = dataset.to_spark(spark)
        with one_slot_taken(local_sc, tmp_path):
            lose(dataset)
            with pytest.raises(
                PythonException, match=r"being made again, which took more than 1 s.*Run the action again"
            ):
                total(frame)
            (ref,) = dataset.refs
            wait_until(lambda: ref._entry.value is not None, "the block is made again in the slot", limit=LIMIT_S)
            assert total(frame) == SUM


def test_a_block_that_is_lost_after_spark_was_stopped_is_an_error_that_says_so(local_sc: SparkContext) -> None:
    sparkray.init(num_cpus=1, object_store_memory=64 << 20)
    try:
        dataset = numbers(SparkSession(local_sc))
        local_sc.stop()
        lose(dataset)
        why = (
            r"which from_spark\(\) had stored, .*could not be made again: the SparkContext that computed it was stopped"
        )
        with pytest.raises(ObjectReconstructionFailedError, match=why) as caught:
            dataset.to_arrow()
        assert caught.value.reason == "MAKER_FAILED"
    finally:
        sparkray.shutdown()


def test_where_spark_shares_fairly_the_job_that_makes_the_block_gets_the_slot(
    fair_sc: SparkContext, tmp_path: Path
) -> None:
    with short_waits(fair_sc) as spark:
        dataset = numbers(spark, blocks=3)  # some tasks that read are always waiting for a slot, and are older
        frame = dataset.to_spark(spark)
        with one_slot_taken(fair_sc, tmp_path):
            lose(dataset)
            assert total(frame) == SUM
