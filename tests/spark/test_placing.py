"""Placement groups, labels, affinity and draining where the nodes live in executors: the same as in `tests/cluster`."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from pyspark import SparkContext

import sparkray
from sparkray import RayContext
from sparkray.draining import drain_node
from sparkray.spark_facts import wait_for_executors
from sparkray.util import placement_group, placement_group_table, remove_placement_group
from sparkray.util.scheduling_strategies import (
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.slow  # a session in two executors

START_S = 240.0


@sparkray.remote(max_retries=0)
def where(seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return str(sparkray.get_runtime_context().get_node_id())


@sparkray.remote(max_retries=0)
def fill(number: int) -> bytes:
    return bytes([number]) * 1_000_000


class _Where:
    def here(self) -> str:
        return str(sparkray.get_runtime_context().get_node_id())


Where: Any = sparkray.remote(num_cpus=1, max_restarts=1, max_task_retries=1)(_Where)


def test_work_goes_where_it_is_told_to_in_executors_and_a_drained_one_loses_nothing(cluster_sc: SparkContext) -> None:
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)
    with RayContext(
        cluster_sc, object_store_memory="64m", start_timeout=START_S, labels={"pool": "spark"}, ray_node_cpu_cores=2
    ) as ctx:
        nodes = {node.node.hex() for node in ctx.executors}
        total = 2.0 * len(nodes)
        for node in nodes:
            at = NodeAffinitySchedulingStrategy(node, soft=False)
            assert sparkray.get(where.options(scheduling_strategy=at).remote(), timeout=60) == node
        labelled = NodeLabelSchedulingStrategy(hard={"pool": In("spark")})
        assert sparkray.get(where.options(scheduling_strategy=labelled).remote(), timeout=60) in nodes

        ended, stop = [0], threading.Event()

        def stream() -> None:
            open_ones: list[Any] = []
            while not stop.is_set():
                open_ones += [where.remote(0.05) for _ in range(20 - len(open_ones))]
                done, open_ones = sparkray.wait(open_ones, num_returns=1, timeout=60)
                ended[0] += len(done)
            sparkray.get(open_ones, timeout=60)

        thread = threading.Thread(target=stream)
        thread.start()
        try:
            wait_until(lambda: ended[0] > 10, "tasks run", 60)
            group = placement_group([{"CPU": 2}] * 2, strategy="STRICT_SPREAD")  # all there is
            assert group.wait(60), placement_group_table(group)
            inside = [PlacementGroupSchedulingStrategy(group, index) for index in range(2)]
            found = {sparkray.get(where.options(scheduling_strategy=one).remote(), timeout=60) for one in inside}
            remove_placement_group(group)
        finally:
            stop.set()
            thread.join()
        assert found == nodes
        wait_until(lambda: sparkray.available_resources().get("CPU") == total, "all is free again")

        head = next(node for node in nodes if _has_head(node))
        (other,) = nodes - {head}
        strategy = NodeAffinitySchedulingStrategy(other, soft=True)
        made = [fill.options(scheduling_strategy=strategy).remote(number) for number in range(3)]
        actor = Where.options(scheduling_strategy=strategy).remote()
        assert sparkray.get(actor.here.remote(), timeout=60) == other
        sparkray.wait(made, num_returns=3, timeout=60, fetch_local=False)
        drain_node(other, "its executor is wanted back")
        assert [value[0] for value in sparkray.get(made, timeout=60)] == [0, 1, 2]
        assert sparkray.get(actor.here.remote(), timeout=60) == head
        sparkray.kill(actor)
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)


def _has_head(node: str) -> bool:
    resources = next(one["Resources"] for one in sparkray.nodes() if one["NodeID"] == node)
    return "node:__internal_head__" in resources
