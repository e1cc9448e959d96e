"""`benchmarks/stress.py` runs, and what it says is true: its formulas are the loops', and a lost leaf is seen."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("stress_work")


@pytest.fixture
def shapes(work: Any) -> Any:
    return importlib.import_module("stress_shapes")


@pytest.mark.parametrize("shape", ["cube", "triangle"])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_formula_says_what_the_loops_give(work: Any, shape: str, n: int) -> None:
    parts = [work.part(shape, n, i) for i in range(1, n + 1)]

    assert work.total(parts) == work.expected(shape, n)
    assert [operations for operations, _ in parts] == [work.cost(shape, n, i) for i in range(1, n + 1)]


def test_two_hundred_are_the_published_eight_million(work: Any) -> None:
    assert work.expected("cube", 200).operations == 8_000_000


def ran(work: Any, count: int, journal: Path) -> list[int]:
    journal.touch()
    return [work.run_leaf(tuple(leaf), 20261129, str(journal)) for leaf in work.leaves(count)]


def test_right_sum_of_leaves_that_each_ran_once_is_accepted(work: Any, shapes: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    answer = sum(ran(work, 30, journal))

    assert shapes.check(30, answer, str(journal), kills=0) == 30


def test_lost_or_doubled_leaf_is_an_error(work: Any, shapes: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    found = ran(work, 30, journal)

    for wrong in (sum(found[1:]), sum(found) + found[0]):
        with pytest.raises(RuntimeError, match="leaves were lost, or counted twice"):
            shapes.check(30, wrong, str(journal), kills=0)


def test_leaf_that_ran_twice_is_an_error_unless_something_was_killed(work: Any, shapes: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    answer = sum(ran(work, 30, journal))
    ran(work, 1, journal)

    assert shapes.check(30, answer, str(journal), kills=1) == 31
    with pytest.raises(RuntimeError, match="1 of 30 leaves ran twice"):
        shapes.check(30, answer, str(journal), kills=0)


def test_answer_for_leaves_that_never_ran_is_an_error(work: Any, shapes: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    answer = sum(ran(work, 30, journal))
    journal.write_bytes(journal.read_bytes()[: 29 * shapes.RECORD_BYTES])

    with pytest.raises(RuntimeError, match="1 leaves never ran"):
        shapes.check(30, answer, str(journal), kills=0)


@pytest.mark.slow
def test_all_systems_and_shapes_run_and_give_right_answers(tmp_path: Path) -> None:
    facts = run(tmp_path, "--quick", "--cpus", "2")

    assert {line["system"] for line in facts["loops"]["values"]} >= {"python", "sparkray", "multiprocessing"}
    assert [(line["shape"], line["outcomes"][0]["counts"]) for line in facts["tasks"]["values"]] == [
        (shape, {"executions": 30, "kills": 0}) for shape in ("flat", "nested", "actors", "tree")
    ]


@pytest.mark.slow
def test_sums_are_right_while_workers_are_killed(tmp_path: Path) -> None:
    facts = run(tmp_path, "--quick", "--cpus", "2", "--parts", "tasks", "--leaves", "10000", "--kill-every", "0.5")

    counts = [line["outcomes"][0]["counts"] for line in facts["tasks"]["values"]]
    assert sum(count["kills"] for count in counts) > 0
    assert all(count["executions"] >= 10000 for count in counts)


def run(folder: Path, *words: str) -> Any:
    """A wrong sum, and a process that is left behind, would stand in its lines."""
    results = folder / "stress.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "stress.py"), "--json", str(results), *words],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LEFT BEHIND" not in done.stdout, done.stdout
    return json.loads(results.read_text())
