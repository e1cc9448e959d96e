"""Schedulers beside the head, as processes: they place, die under load and come again, and nobody's answer is wrong."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import sparkray
from sparkray.cluster_utils import Cluster
from sparkray.util.state import list_cluster_events
from sparkray_core.ids import HEAD
from sparkray_core.run import object_ref
from tests.waiting import is_running, wait_until

STORE_BYTES = 64 << 20


@pytest.fixture(scope="module")
def cluster(module_base_folder: Path) -> Iterator[Cluster]:
    """A head without CPUs, two schedulers beside it, two nodes; this process has joined."""
    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "global_schedulers": 2}
    with Cluster(initialize_head=True, connect=True, head_node_args=head) as made:
        for _ in range(2):
            made.add_node(num_cpus=2, object_store_memory=STORE_BYTES)
        yield made


@sparkray.remote
def double(number: int) -> int:
    return 2 * number


def of_its_own(number: int) -> sparkray.ObjectRef[int]:
    """A task that needs a lease of its own."""
    return double.options(num_cpus=0.5 + number % 400 / 1000).remote(number)


def decisions() -> dict[bytes, int]:
    assert object_ref.current is not None
    return dict(object_ref.current.ask(HEAD, "schedulers"))


def pids(cluster: Cluster) -> list[int]:
    assert cluster.head_node is not None
    return cluster.head_node.pids("schedulers")


def ends_of_schedulers() -> dict[str, str]:
    """Why, by its id."""
    said = [event["message"] for event in list_cluster_events(filters=[("source_type", "=", "SCHEDULER")])]
    return {found[1]: found[2] for one in said if (found := re.fullmatch(r"scheduler (\w+) is gone: (.*)", one))}


def test_they_place_what_the_nodes_of_owners_cannot(cluster: Cluster) -> None:
    wait_until(lambda: len(decisions()) == 2, "both have joined")
    assert {psutil.Process(pid).name() for pid in pids(cluster)} == {"sparkray-schedu"}  # 15 characters are kept
    refs = [of_its_own(number) for number in range(50)]
    assert sparkray.get(refs, timeout=30) == [2 * number for number in range(50)]
    wait_until(lambda: sum(decisions().values()) >= 50, "they say that they have placed")


def test_killed_under_load_they_cost_a_pause_and_no_answer(cluster: Cluster) -> None:
    wait_until(lambda: len(decisions()) == 2 == len(pids(cluster)), "both have joined")
    before, known = pids(cluster), decisions()
    number, killed = 0, threading.Event()

    def are_others() -> bool:
        now, new = pids(cluster), decisions()
        return len(now) == 2 == len(new) and not set(before) & set(now) and not set(known) & set(new)

    def kill() -> None:
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        killed.set()

    timer = threading.Timer(0.2, kill)
    timer.start()
    try:
        end = time.monotonic() + 20.0
        while not (killed.is_set() and are_others()):
            assert time.monotonic() < end, f"schedulers: {decisions()}, processes {pids(cluster)}"
            assert sparkray.get(of_its_own(number), timeout=10) == 2 * number
            number += 1
    finally:
        timer.join()
    assert {one.hex() for one in known} == set(whys := ends_of_schedulers())
    assert not [why for why in whys.values() if "silent" in why]
    assert not any(map(is_running, before))
    placed = sum(decisions().values())
    refs = [of_its_own(number) for number in range(50)]
    assert sparkray.get(refs, timeout=30) == [2 * number for number in range(50)]
    wait_until(lambda: sum(decisions().values()) > placed, "the new ones place")


@pytest.mark.slow
def test_one_that_is_stopped_is_given_up_and_another_takes_its_place(cluster: Cluster) -> None:
    before = wait_until(lambda: pids(cluster) if len(pids(cluster)) == 2 else [], "two schedulers")
    wait_until(lambda: len(decisions()) == 2, "both have joined")
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    try:
        refs = [of_its_own(number) for number in range(50)]
        assert sparkray.get(refs, timeout=30) == [2 * number for number in range(50)]
    finally:
        for pid in before:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: len(decisions()) == 2 and not set(before) & set(pids(cluster)), "two others")
