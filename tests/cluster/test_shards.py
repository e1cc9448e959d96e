"""Shards of the GCS as processes: owners die and what they recorded has heirs, while shards are killed and go on."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import sparkray
from sparkray.cluster_utils import Cluster
from sparkray_core.ids import ProcessId, shard_node
from sparkray_core.model.records import keeper_of
from sparkray_core.run import object_ref
from tests.waiting import is_running, wait_until

STORE_BYTES = 64 << 20
LARGE = 300_000  # bytes: it lies in a store
SHARDS = 2
WAIT_S = 60.0


@pytest.fixture(scope="module")
def cluster(module_base_folder: Path) -> Iterator[Cluster]:
    """A head without CPUs, two shards beside it, and a node; this process has joined. Nobody tells it of shards."""
    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "gcs_shards": SHARDS}
    with Cluster(initialize_head=True, connect=True, head_node_args=head) as made:
        made.add_node(num_cpus=4, object_store_memory=STORE_BYTES)
        yield made


@sparkray.remote
def fill(number: int, size: int) -> bytes:
    return bytes([number]) * size


@sparkray.remote
def give(number: int) -> list[Any]:
    """Its own process, and references to results of tasks that it has submitted."""
    given = [fill.remote(number, 10), fill.remote(number, LARGE)]
    sparkray.wait(given, num_returns=2, timeout=WAIT_S)
    assert object_ref.current is not None
    return [os.getpid(), object_ref.current.me, *given]


@sparkray.remote
def first_of(refs: list[Any]) -> int:
    return int(sparkray.get(refs[0])[0])


def pids(cluster: Cluster) -> list[int]:
    assert cluster.head_node is not None
    return cluster.head_node.pids("shards")


def kill_owner(pid: int) -> None:
    """It may be gone already: with an owner the raylet ends the workers that it has leased, other owners among them."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), limit=WAIT_S)


def is_inherited(number: int, small: Any, large: Any) -> None:
    assert sparkray.get(first_of.remote([small]), timeout=WAIT_S) == number  # a borrower asks
    assert sparkray.get([small, large], timeout=WAIT_S) == [bytes([number]) * 10, bytes([number]) * LARGE]


def test_each_shard_has_its_name_its_tables_and_nobody_else_reads_them(cluster: Cluster) -> None:
    assert len(pids(cluster)) == SHARDS
    titles = {" ".join(psutil.Process(pid).cmdline()).strip() for pid in pids(cluster)}
    assert titles == {"sparkray: gcs shard 0", "sparkray: gcs shard 1"}
    assert cluster.head_node is not None
    tables = sorted(Path(cluster.head_node.folder).glob("gcs*.sqlite"))
    assert [path.name for path in tables] == ["gcs-shard-0.sqlite", "gcs-shard-1.sqlite", "gcs.sqlite"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tables} == {0o600}


@pytest.mark.slow
def test_results_of_dead_owners_are_inherited_from_whichever_shard_has_their_records(cluster: Cluster) -> None:
    keepers: set[ProcessId] = set()
    for number in range(1, 20):
        pid, owner, small, large = sparkray.get(give.remote(number), timeout=WAIT_S)
        keepers.add(keeper_of(owner, SHARDS))
        kill_owner(pid)
        is_inherited(number, small, large)
        if len(keepers) == SHARDS:
            break
    assert len(keepers) == SHARDS


def test_what_was_recorded_before_a_shard_is_killed_is_inherited_after(cluster: Cluster) -> None:
    before = pids(cluster)
    given = sparkray.get([give.remote(number) for number in range(1, 5)], timeout=WAIT_S)
    for shard in before:
        os.kill(shard, signal.SIGKILL)
    for pid in {pid for pid, *_ in given}:  # while others take the shards' places
        kill_owner(pid)
    for number, (_, _, small, large) in enumerate(given, 1):
        is_inherited(number, small, large)
    wait_until(lambda: len(pids(cluster)) == SHARDS and not set(pids(cluster)) & set(before), "others go on", WAIT_S)


@pytest.mark.slow
def test_while_a_shard_is_stopped_tasks_go_on_and_so_do_owners_of_others(cluster: Cluster) -> None:
    (stopped, *_) = [pid for pid in pids(cluster) if psutil.Process(pid).cmdline()[0].endswith("shard 0")]
    given: list[list[Any]] = []
    os.kill(stopped, signal.SIGSTOP)
    try:
        for number in range(1, 20):
            given.append(sparkray.get(give.remote(number), timeout=WAIT_S))
            pid, owner, small, large = given[-1]
            kill_owner(pid)  # so that the next is another process
            if keeper_of(owner, SHARDS)[:8] == shard_node(1):
                is_inherited(number, small, large)
                break
        else:
            raise AssertionError("no owner's records are the other shard's")
    finally:
        os.kill(stopped, signal.SIGCONT)
    for number, (_, _, small, large) in enumerate(given, 1):
        is_inherited(number, small, large)
