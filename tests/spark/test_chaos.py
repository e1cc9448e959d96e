"""Kills as a Poisson process, under a load whose answers are all checked, in executors: `tests/chaos`, with Spark.

`CHAOS_MINUTES` and `CHAOS_SEED` say how long and which: `python -m tests.chaos.run --spark --minutes 5 --seed 7`.
"""

from __future__ import annotations

import os
import sys
import time

import pytest
from pyspark import SparkContext

from sparkray import RayContext
from sparkray.spark_facts import wait_for_executors
from tests.chaos.kills import schedule
from tests.chaos.spark_ground import SparkGround
from tests.chaos.storm import Storm
from tests.left import LeftBehind

from .conftest import START_S

SECONDS = 60 * float(os.environ.get("CHAOS_MINUTES", "1"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))


@pytest.mark.chaos
@pytest.mark.timeout(SECONDS + 4 * START_S)
def test_all_answers_are_right_while_executors_and_what_is_in_them_are_killed(
    cluster_sc: SparkContext, left_behind: LeftBehind, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)
    with RayContext(
        cluster_sc, object_store_memory="128m", start_timeout=START_S, elastic=True, ray_node_cpu_cores=2
    ) as ctx:
        ground = SparkGround(ctx, nodes=2)
        summary = Storm(ground).run(SEED, SECONDS, schedule(SEED, SECONDS, ground.per_minute))
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)  # Spark's own affair, and no longer busy with it

    left = left_behind()
    with capsys.disabled():
        sys.stdout.write(f"\n{summary}\n{left}\n")
    assert ctx.last_stop.clean, ctx.last_stop
    assert not summary.grown
    assert not left.things
