"""docs/tutorial.md runs as far as it needs no Spark, and each block prints what stands below it.

All of it: tests/spark/test_tutorial_page.py.
"""

from __future__ import annotations

from pathlib import Path

from tests.pages import run_steps, steps_of


def test_each_step_of_the_way_to_actors_prints_what_it_says(tmp_path: Path) -> None:
    steps = steps_of("docs/tutorial.md")
    steps = steps[: next(number for number, step in enumerate(steps) if "RayContext" in step.code)]
    assert [step.shown != [] for step in steps] == [False, True, True, True, True, False]
    assert run_steps(steps, tmp_path) == steps
