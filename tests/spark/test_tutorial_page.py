"""docs/tutorial.md runs, as one script from top to bottom, and each block prints what stands below it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.pages import run_steps, steps_of

from .conftest import SMALL_JVM, START_S


@pytest.mark.slow
def test_all_of_it_prints_what_it_says(tmp_path: Path) -> None:
    steps = steps_of("docs/tutorial.md")
    assert [step.shown != [] for step in steps] == [False, True, True, True, True, False, True, True, False]
    small = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1", "JDK_JAVA_OPTIONS": SMALL_JVM}
    assert run_steps(steps, tmp_path, small, limit=START_S) == steps
