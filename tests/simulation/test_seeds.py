"""Random sessions. A failing seed fails everywhere in the same way; `run_storm(seed, ROUGH, trace)` fills its trace."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sparkray_core.testing.storm import CALM, ROUGH, run_storm


@pytest.mark.parametrize("seed", range(30))
def test_every_wish_ends_and_nothing_leaks_when_things_go_wrong(seed: int) -> None:
    run_storm(seed, ROUGH)


@pytest.mark.parametrize("seed", range(10))
def test_every_wish_is_fulfilled_when_nothing_goes_wrong(seed: int) -> None:
    run_storm(seed, CALM)


def test_same_seed_gives_the_same_trace_whatever_the_order_of_sets() -> None:
    script = "from sparkray_core.testing.storm import *; print(run_storm(7, ROUGH).sim.digest())"
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
    assert digests == {run_storm(7, ROUGH).sim.digest() + "\n"}
    assert digests != {run_storm(8, ROUGH).sim.digest() + "\n"}
