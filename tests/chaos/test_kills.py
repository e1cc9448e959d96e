"""Processes are killed under load, for minutes, and nobody who waits for an answer gets a wrong one, or none.

`CHAOS_MINUTES` and `CHAOS_SEED` say how long and which kills: `python -m tests.chaos.run --minutes 30 --seed 7`.
"""

from __future__ import annotations

import os
import sys

import pytest

from sparkray.cluster_utils import Cluster
from tests.chaos.grounds import SCHEDULERS, SHARDS, STORE_BYTES, STORE_WAIT_S, ClusterGround
from tests.chaos.kills import PER_MINUTE, WATCHED, schedule
from tests.chaos.storm import Storm
from tests.left import LeftBehind

SECONDS = 60 * float(os.environ.get("CHAOS_MINUTES", "2"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))


def test_a_seed_says_what_is_killed_and_when() -> None:
    kills = schedule(7, 1800)

    assert schedule(7, 1800) == kills
    assert schedule(7, 120) == [kill for kill in kills if kill.at < 120]
    assert schedule(8, 1800) != kills
    assert {kill.kind for kill in kills} == set(PER_MINUTE)
    assert {kill.kind for kill in kills if kill.hangs} == set(WATCHED)
    heads = [kill.at for kill in kills if kill.kind == "head"]
    assert all(later - earlier > 60 for earlier, later in zip(heads, heads[3:], strict=False))


@pytest.mark.chaos
@pytest.mark.timeout(SECONDS + 600)
def test_all_answers_are_right_and_memory_is_flat_while_processes_are_killed(
    left_behind: LeftBehind, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = {"global_schedulers": SCHEDULERS, "gcs_shards": SHARDS, "store_wait_s": STORE_WAIT_S}
    head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, **beside}
    with Cluster(initialize_head=True, head_node_args=head) as cluster:
        cluster.connect(log_to_driver=False)
        summary = Storm(ClusterGround(cluster)).run(SEED, SECONDS, schedule(SEED, SECONDS))

    left = left_behind()
    with capsys.disabled():
        sys.stdout.write(f"\n{summary}\n{left}\n")
    assert not summary.grown
    assert not left.things
