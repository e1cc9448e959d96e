"""`examples/`, as a user runs them: by PySpark's own spark-submit, and by Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pyspark
import pytest

from .conftest import SMALL_JVM, START_S, remove_work_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
SUBMIT = Path(str(pyspark.__file__)).parent / "bin" / "spark-submit"
QUIET = "spark.ui.enabled=false", "spark.ui.showConsoleProgress=false", "spark.log.level=ERROR"


def run(command: list[str], folder: Path) -> tuple[str, str]:
    """What it said, and what was logged meanwhile."""
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
        env={
            **os.environ,
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "JDK_JAVA_OPTIONS": SMALL_JVM,
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_submitted_script_leaves_its_forecasts_as_parquet(tmp_path: Path) -> None:
    settings = [word for setting in QUIET for word in ("--conf", setting)]

    said, _ = run([str(SUBMIT), "--master", "local[2]", *settings, str(EXAMPLES / "submit_forecasts.py")], tmp_path)

    forecasts = pq.read_table(tmp_path / "forecasts").to_pandas()
    assert "4 blocks on 1 nodes" in said
    assert len(forecasts) == 15 * 33  # sectors; months from January 2013 that have a third one after them
    assert forecasts.groupby("sector").size().nunique() == 1
    wrong = (forecasts.next_3 - forecasts.forecast).abs().mean()
    assert wrong < (forecasts.next_3 - forecasts.last_3).abs().mean()  # it knows more than that all goes on as it did
    assert f"{len(forecasts)} forecasts" in said


@pytest.mark.slow
def test_job_on_a_spark_of_its_own_labels_what_was_kept_back(tmp_path: Path) -> None:
    said, _ = run([sys.executable, str(EXAMPLES / "job_digits.py"), "--master", "local[2]"], tmp_path)

    known, new = map(int, re.findall(r"(\d+) pictures to learn from, (\d+) to label", said)[0])
    table = [line.split("|")[1:5] for line in said.splitlines() if re.match(r"\|\d ", line)]
    assert known + new == 1797
    assert [int(row[0]) for row in table] == list(range(10))
    assert sum(int(row[1]) for row in table) == new
    assert sum(int(row[2]) for row in table) > 0.97 * new


@pytest.mark.slow
def test_job_starts_a_standalone_spark_and_ends_it(tmp_path: Path) -> None:
    said, _ = run([sys.executable, str(EXAMPLES / "job_digits.py")], tmp_path)

    assert "the best of 12" in said  # and the fixture looks for what would be left


@pytest.mark.slow
def test_submitted_script_runs_on_two_executors(tmp_path: Path) -> None:
    settings = ["--conf", QUIET[0], "--master", "local-cluster[2,1,1024]"]  # and Spark's log, which tells the id

    said, logged = run([str(SUBMIT), *settings, str(EXAMPLES / "submit_forecasts.py")], tmp_path)

    remove_work_folder(re.findall(r"app ID (app-[\d-]+)", logged)[0])
    assert "4 blocks on 2 nodes" in said
