"""docs/tutorial.md runs, in one process from top to bottom, and each block prints what stands below it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.pages import Step, run_steps, steps_of

STEPS = steps_of("docs/tutorial.md")
SPARK_FROM = next(number for number, step in enumerate(STEPS) if "RayContext" in step.code)


def differing(given: list[Step], found: list[Step]) -> list[tuple[list[str], list[str]]]:
    return [(one.shown, other.shown) for one, other in zip(given, found, strict=True) if one != other]


def test_each_step_of_the_way_to_actors_prints_what_it_says(tmp_path: Path) -> None:
    steps = STEPS[:SPARK_FROM]
    assert [step.shown != [] for step in steps] == [False, True, True, True, True, False]
    assert differing(steps, run_steps(steps, tmp_path)) == []


@pytest.mark.slow
@pytest.mark.spark
def test_all_of_it_does_to_dataframes_too(tmp_path: Path) -> None:
    assert [step.shown != [] for step in STEPS[SPARK_FROM:]] == [True, True, False]
    small = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    assert differing(STEPS, run_steps(STEPS, tmp_path, small)) == []
