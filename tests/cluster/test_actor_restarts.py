"""What becomes of an actor's saved state when its node dies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sparkray.cluster_utils import Cluster
from tests.cluster.conftest import Driver


@pytest.mark.slow
def test_a_small_state_moves_to_another_node_and_a_large_one_is_told_to_be_lost(
    base_folder: Path, drivers: Callable[..., Driver]
) -> None:
    with Cluster(initialize_head=True) as cluster:
        _move(cluster, drivers())


def _move(cluster: Cluster, driver: Driver) -> None:
    first = cluster.add_node(resources={"there": 1})
    driver.do("""
        ray.init(address="auto")

        @ray.remote(max_restarts=-1, max_task_retries=-1, resources={"there": 0.4}, num_cpus=0)
        class Holds:
            def __init__(self, size):
                self.size, self.count = size, 0

            def add(self):
                self.count += 1
                return self.count, ray.get_runtime_context().get_node_id()

            def __ray_save__(self):
                return self.count, bytes(self.size)

            def __ray_restore__(self, state):
                self.count = state[0]

        small, large = Holds.remote(10), Holds.remote(3 << 20)
        before = ray.get([small.add.remote(), large.add.remote()])
        result = [count for count, _ in before]
    """)
    cluster.add_node(resources={"there": 1})

    # A call that its last moments still ran would count once more when it is made again: so none is made in these.
    cluster.remove_node(first, allow_graceful=False)

    count, moved = driver.do("""
        count, node = ray.get(small.add.remote(), timeout=60)
        result = count, node != before[0][1]
    """)
    assert (count, moved) == (2, True)
    told = driver.attempt("ray.get(large.add.remote(), timeout=60)")["error"]
    assert told.startswith("ActorDiedError")
    assert "its saved state (3" in told
