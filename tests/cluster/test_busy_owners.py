"""Groups, actors and wide tasks get what they need from owners that keep all CPUs busy, and go on doing so."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray.cluster_utils import Cluster
from sparkray.util import placement_group, placement_group_table, remove_placement_group
from tests.waiting import wait_until

pytestmark = pytest.mark.slow  # three nodes are started


@sparkray.remote
def nap() -> None:
    time.sleep(0.1)


@sparkray.remote(num_cpus=2)
def wide_nap() -> str | None:
    time.sleep(0.1)
    return os.environ.get("OMP_NUM_THREADS")


class Stream:
    """Hands in tasks, more than there are CPUs at any time, until it is to stop."""

    def __init__(self) -> None:
        self.ended = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        open_ones: list[Any] = []
        while not self._stop.is_set():
            open_ones += [nap.remote() for _ in range(30 - len(open_ones))]
            done, open_ones = sparkray.wait(open_ones, num_returns=1, timeout=60)
            self.ended += len(done)
        sparkray.get(open_ones, timeout=60)

    def count(self) -> int:
        return self.ended

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class _Wide:
    def here(self) -> bool:
        return True


Wide: Any = sparkray.remote(num_cpus=2)(_Wide)
Streamer: Any = sparkray.remote(num_cpus=0)(Stream)


@contextlib.contextmanager
def two_busy_owners() -> Iterator[None]:
    """This process, and an actor. Both are seen to go on."""
    mine, other = Stream(), Streamer.remote()

    def both_go_on(since: tuple[int, int]) -> bool:
        return mine.count() > since[0] and sparkray.get(other.count.remote(), timeout=60) > since[1]

    try:
        wait_until(lambda: both_go_on((5, 5)), limit=60)
        yield
        since = mine.count(), sparkray.get(other.count.remote(), timeout=60)
        wait_until(lambda: both_go_on(since), limit=60)
    finally:
        mine.stop()
        sparkray.get(other.stop.remote(), timeout=60)
        sparkray.kill(other)


@pytest.fixture(scope="module")
def cluster(module_base_folder: Path) -> Iterator[None]:
    """One node with one CPU and two with two."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as made:
        made.add_node(num_cpus=2)
        made.add_node(num_cpus=2)
        made.connect(namespace="busy")
        made.wait_for_nodes()
        yield


def test_groups_of_each_strategy_and_wide_actors_come_to_be_while_two_owners_keep_all_busy(cluster: None) -> None:
    with two_busy_owners():
        cases: list[tuple[str, list[dict[str, float]]]] = [
            ("STRICT_PACK", [{"CPU": 1}] * 2),
            ("PACK", [{"CPU": 2}, {"CPU": 1}]),
            ("SPREAD", [{"CPU": 1}] * 4),
            ("STRICT_SPREAD", [{"CPU": 1}] * 3),
        ]
        for strategy, bundles in cases:
            group = placement_group(bundles, strategy=strategy)
            assert group.wait(30), placement_group_table(group)
            remove_placement_group(group)
        wide = Wide.remote()
        assert sparkray.get(wide.here.remote(), timeout=30)
        sparkray.kill(wide)
    wait_until(lambda: sparkray.available_resources().get("CPU") == 5)


def test_wide_tasks_run_while_two_owners_keep_all_busy(cluster: None) -> None:
    with two_busy_owners():
        for _ in range(3):
            assert sparkray.get([wide_nap.remote() for _ in range(4)], timeout=30) == ["2"] * 4
    wait_until(lambda: sparkray.available_resources().get("CPU") == 5)


def test_two_groups_that_both_want_all_nodes_come_one_after_the_other(cluster: None) -> None:
    with two_busy_owners():
        one, other = (placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD") for _ in range(2))
        wait_until(lambda: one.wait(0.1) or other.wait(0.1))  # the node of one CPU has room for one of them
        first, second = (one, other) if one.wait(0.1) else (other, one)
        assert not second.wait(0.5)
        remove_placement_group(first)
        assert second.wait(30), placement_group_table(second)
        remove_placement_group(second)
    wait_until(lambda: sparkray.available_resources().get("CPU") == 5)
