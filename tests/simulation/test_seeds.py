"""Random sessions. A failing seed fails everywhere in the same way, and tells the end of its story.

More of them: `SPARKRAY_SEEDS=1000`, or `python -m sparkray_core.testing.storm --seeds 40 1000 --mixed --jobs 2`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from sparkray_core.testing.storm import run_storm
from sparkray_core.testing.weather import (
    CALM,
    CANCELS,
    COPIES,
    COPIES_IN_SHARDS,
    CRASHES,
    DEADLY,
    DEADLY_SCHEDULERS,
    DEADLY_SPARK,
    HEADLESS,
    LEAVING,
    LOSSY,
    ORPHANS,
    ROUGH,
    ROUGH_SPARK,
    SCHEDULERS,
    SHARDS,
    Weather,
)
from tests.marks import slow

SEEDS = int(os.environ.get("SPARKRAY_SEEDS", "40"))  # with faults, at least, in all weathers together


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_every_wish_ends_and_nothing_leaks_when_things_go_wrong(seed: int) -> None:
    run_storm(seed, ROUGH)


@pytest.mark.parametrize("seed", range(SEEDS // 10))
def test_every_wish_is_fulfilled_when_nothing_goes_wrong(seed: int) -> None:
    run_storm(seed, CALM)


@pytest.mark.parametrize("seed", range(SEEDS // 10))
def test_what_is_cancelled_ends_so_or_with_its_value_and_all_else_is_right(seed: int) -> None:
    run_storm(seed, CANCELS)


@pytest.mark.parametrize("seed", range(SEEDS // 10))
def test_every_wish_is_fulfilled_on_a_network_that_loses_and_reorders(seed: int) -> None:
    run_storm(seed, LOSSY)


@pytest.mark.parametrize("seed", range(SEEDS // 10))
def test_every_task_ends_when_workers_with_several_ahead_die(seed: int) -> None:
    run_storm(seed, CRASHES)


@pytest.mark.parametrize("seed", range(SEEDS // 10))
def test_every_value_is_right_when_nodes_die_and_what_was_on_them_can_be_made_again(seed: int) -> None:
    run_storm(seed, DEADLY)


@pytest.mark.parametrize("seed", range(SEEDS // 8))
def test_nobody_notices_when_the_head_dies_again_and_again(seed: int) -> None:
    run_storm(seed, HEADLESS)


# The last lets go of a stream's lost items while they are being made again.
@pytest.mark.parametrize("seed", [*range(max(2, SEEDS // 20)), *slow(2248)])
def test_every_value_is_right_when_nodes_of_one_host_read_each_other_s_objects_in_place(seed: int) -> None:
    run_storm(seed, replace(DEADLY, shared_hosts=True))


@pytest.mark.parametrize("seed", [1, 7, 8, *slow(0, 2, 3, 4, 5, 6, 9, 10, 11)])
def test_every_value_is_right_when_workers_die_that_own_what_others_hold(seed: int) -> None:
    storm = run_storm(seed, ORPHANS)
    assert any(driver.owner.refs.legacy.mine for driver in storm.drivers), "no driver took anything over"


@pytest.mark.parametrize("seed", [1, *slow(0, 2, 3)])
def test_what_owners_recorded_outlives_the_head_s_process_too(seed: int) -> None:
    run_storm(seed, replace(ORPHANS, head_deaths=4))


@pytest.mark.parametrize("seed", [1, *slow(0)])
def test_what_owners_recorded_outlives_shards_that_die_again_and_again(seed: int) -> None:
    run_storm(seed, SHARDS)


@pytest.mark.parametrize("seed", slow(0))
def test_copies_have_other_owners_while_shards_die(seed: int) -> None:
    storm = run_storm(seed, COPIES_IN_SHARDS)
    assert storm.lost, "no node died that owned anything"


@pytest.mark.parametrize("seed", [4, 28, 31, *slow(*range(4), *range(5, 13))])
def test_every_value_is_right_when_schedulers_die_again_and_again(seed: int) -> None:
    storm = run_storm(seed, SCHEDULERS)
    assert storm.sim._schedulers > 2


# The last asked a scheduler again for leases that a node had passed on to one that had died.
@pytest.mark.parametrize("seed", [4, *slow(*range(4), 5, 6, 7, 8, 1001)])
def test_every_value_is_right_when_schedulers_the_head_and_nodes_die(seed: int) -> None:
    run_storm(seed, DEADLY_SCHEDULERS)


@pytest.mark.parametrize("seed", [1, *slow(0, 30159)])  # the last killed both of a copy's nodes once, in half a second
def test_every_value_is_right_when_nodes_die_of_which_all_that_was_put_has_copies(seed: int) -> None:
    storm = run_storm(seed, COPIES)
    assert storm.lost, "no node died that owned anything"


@pytest.mark.parametrize("seed", [2, 4, 8, *slow(0, 1, 3, 5, 7, 9, 10, 11)])
def test_nobody_notices_that_nodes_are_drained(seed: int) -> None:
    run_storm(seed, LEAVING)


def test_blocks_of_spark_that_are_lost_are_made_again_and_have_their_values() -> None:
    storm = run_storm(9, DEADLY_SPARK)
    assert sum(len(driver.spark.repeated) for driver in storm.drivers if driver.spark is not None) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("weather", [ROUGH_SPARK, DEADLY_SPARK], ids=["rough", "deadly"])
@pytest.mark.parametrize("seed", range(SEEDS // 4))
def test_what_is_asked_of_every_session_holds_with_blocks_of_spark(weather: Weather, seed: int) -> None:
    run_storm(seed, weather)


def test_same_seed_gives_the_same_trace_whatever_the_order_of_sets() -> None:
    script = (
        "from sparkray_core.testing.storm import run_storm; from sparkray_core.testing.weather import ROUGH; "
        "print(run_storm(7, ROUGH, told=True).sim.digest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }

    assert len(digests) == 1
    assert digests == {run_storm(7, ROUGH, told=True).sim.digest() + "\n"}
    assert digests != {run_storm(8, ROUGH, told=True).sim.digest() + "\n"}
