"""`benchmarks/stress.py` runs, and what it says is true: its formulas are the loops', and a lost leaf is seen."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.waiting import wait_until

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("stress_work")


@pytest.fixture
def shapes(work: Any) -> Any:
    return importlib.import_module("stress_shapes")


@pytest.fixture
def report(work: Any) -> Any:
    return importlib.import_module("stress_report")


@pytest.mark.parametrize("shape", ["cube", "triangle"])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_formula_says_what_the_loops_give(work: Any, shape: str, n: int) -> None:
    parts = [work.part(shape, n, i) for i in range(1, n + 1)]

    assert work.total(parts)[0] == work.expected(shape, n)
    assert [operations for operations, *_ in parts] == [work.cost(shape, n, i) for i in range(1, n + 1)]


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

    with pytest.raises(RuntimeError, match="1 leaves never ran, or too rarely"):
        shapes.check(30, answer, str(journal), kills=0)


def test_several_passes_are_checked_together(work: Any, shapes: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    answer = sum(ran(work, 30, journal)) + sum(ran(work, 30, journal))

    assert shapes.check(30, answer, str(journal), passes=2, kills=0) == 60
    with pytest.raises(RuntimeError, match="30 leaves never ran, or too rarely"):
        shapes.check(30, answer // 2 * 3, str(journal), passes=3, kills=1)


def test_killer_that_cannot_kill_is_an_error(shapes: Any, tmp_path: Path) -> None:
    before = threading.active_count()

    with pytest.raises(FileNotFoundError), shapes.killing(str(tmp_path / "none"), 0.01):
        wait_until(lambda: threading.active_count() == before)


def cell(report: Any, *seconds: float) -> Any:
    outcome = importlib.import_module("micro_process").Outcome
    return report.Cell([outcome(value) for value in seconds])


def test_comparison_within_rounds_is_not_moved_by_a_slow_round(report: Any) -> None:
    run = report.Run("loops", "sparkray", "cube", 200, 2, 3, 1.5)
    cells = {
        run._replace(system="python", cpus=1): cell(report, 2.0, 20.0, 2.0),
        run._replace(system="forks_static"): cell(report, 0.9, 9.0, 1.1),
        run._replace(system="forks_counter"): cell(report, 9.0, 9.0, 9.0),
        run: cell(report, 1.0, 10.0, 1.1),
    }

    assert report.within_rounds(report.floor_of(cells, run), cells[run]) == pytest.approx([0.9, 0.9, 1.0])
    assert report.loop_table(cells)[-1][-4:] == ["1.82", "91%", "100%", "90% - 90% - 100%"]


def test_growth_is_time_per_leaf_by_that_at_ten_thousand(report: Any) -> None:
    run = report.Run("tasks", "sparkray", "flat", 10_000, 2, 1, 0.0)
    cells = {run: cell(report, 0.2, 0.3, 0.2), run._replace(size=1_000_000): cell(report, 25.0)}

    assert report.growth(cells) == [
        "sparkray flat: time per leaf at 1,000,000 by that at 10,000: 1.25 (wanted: at most 1.3)"
    ]


def test_rival_that_fails_is_a_note_and_no_failure_of_the_benchmark(report: Any) -> None:
    outcome = importlib.import_module("micro_process").Outcome
    run = report.Run("kills", "sparkray", "actors", 10_000, 2, 1, 10.0, 2.0)
    broken = report.Cell([outcome(error="RuntimeError: a call came after a later one")])

    assert report.failures({run: broken}) == [run]
    assert report.failures({run._replace(system="ray"): broken}) == []
    assert report.notes_of({run._replace(system="ray"): broken}) == [
        "ray actors 10,000 on 2, a kill every 2 s: RuntimeError: a call came after a later one"
    ]


@pytest.fixture
def command(work: Any) -> Any:
    return importlib.import_module("stress")


def test_nothing_is_begun_when_time_is_up(command: Any, report: Any) -> None:
    run = report.Run("loops", "sparkray", "cube", 200, 2, 2, 1.0)
    cells = {run: report.Cell(), run._replace(rounds=1): report.Cell()}

    assert command.measure(argparse.Namespace(rounds=2), cells, command.Progress(3, 0.0)) == 3
    assert [cell.outcomes for cell in cells.values()] == [[], []]


def test_plan_has_the_largest_loops_on_all_numbers_of_cpus_and_the_others_on_all_cpus(command: Any) -> None:
    args = argparse.Namespace(n=[20, 40], loops=["cube", "triangle"], cpus=6, rounds=3, seconds=1.0, quick=False)
    args.systems = ["python", "sparkray", "ray"]

    assert [(run.shape, run.size, run.system, run.cpus, run.rounds) for run in command.loop_runs(args)] == [
        ("cube", 20, "python", 1, 3),
        ("cube", 20, "sparkray", 6, 3),
        ("cube", 20, "ray", 6, 1),
        *(
            (shape, 40, system, cpus, 1 if (shape, system) == ("triangle", "ray") else 3)
            for shape in ("cube", "triangle")
            for system, cpus in [
                *(("sparkray", cpus) for cpus in (1, 2, 4)),
                *(("python", 1), ("sparkray", 6), ("ray", 6)),
            ]
        ),
    ]


def test_page_of_a_result_has_each_part_and_what_was_not_measured(command: Any) -> None:
    at = {"when": "2026-11-29T06:20:00+00:00", "load before": "0.4"}
    facts = {
        "when": "2026-11-29T06:30:00+00:00",
        "machine": {"cores": 2},
        "versions": {"sparkray": "0.1"},
        "rounds": 3,
        "absent": ["ray was not measured: no such file"],
        "loops": {**at, "table": [["loops", "n"], ["cube", "200"]], "notes": []},
        "kills": {**at, "table": [["shape"], ["flat"]], "notes": ["a note"]},
    }

    page = command.page(facts)

    assert page.startswith("# Stress: i x j x k\n\n2026-11-29. sparkray 0.1.\ncores 2.\n")
    assert "## Loops\n\nUntil 2026-11-29 06:20; load before: 0.4.\n\n| loops | n |" in page
    assert "| cube | 200 |\n\n- ray was not measured: no such file\n\n## Shapes of tasks, while workers" in page
    assert page.endswith("| flat |\n\n- a note\n")


def test_busy_share_is_told_within_each_pass_and_compared_with_the_busier_forks(report: Any) -> None:
    run = report.Run("turns", "all", "cube", 200, 2, 1, 60.0)
    turns = {"forks_static": [(1.0, 1.8), (2.0, 3.6)], "forks_counter": [(1.0, 2.0), (2.0, 4.0)]}
    outcome = importlib.import_module("micro_process").Outcome(
        0.0, turns={**turns, "sparkray": [(1.0, 1.9), (4.0, 7.6)]}
    )

    lines = report.table("turns", {run: importlib.import_module("micro_report").Cell([outcome])})

    assert [line[2] for line in lines[1:]] == ["forks_static", "forks_counter", "sparkray"]
    assert lines[3][-2:] == ["95.0% - 95.0% - 95.0%", "95.0%"]
    assert lines[3][-3] == "50% - 75% - 100%"


def test_turns_with_ray_add_it_to_those_without(work: Any) -> None:
    def line(**turns: list[list[float]]) -> dict[str, Any]:
        return {"shape": "cube", "size": 200, "cpus": 2, "outcomes": [{"turns": turns}]}

    forks, ours, ray = [[1.0, 1.9]], [[1.0, 1.8]], [[1.0, 1.0]]
    lines = [line(forks_static=forks, sparkray=ours), line(forks_static=ours, sparkray=ray, ray=ray)]

    busy = importlib.import_module("stress_plot")._busy({"turns": {"values": lines}})

    assert busy == {("cube", 200, 2): {"plain forks": 0.95, "sparkray": 0.9, "ray": 0.5}}


def test_pass_of_another_interpreter_has_the_answer_of_all_parts(work: Any) -> None:
    systems = importlib.import_module("stress_systems")
    child = [sys.executable, str(BENCHMARKS / "stress_child.py"), "python", "serve", "any", "0", "1", "0", "0", "0"]

    with systems.running_elsewhere(child, dict(os.environ)) as run:
        answers = [work.total(run(shape, n))[0] for shape, n in (("cube", 5), ("triangle", 7))]

    assert answers == [work.expected("cube", 5), work.expected("triangle", 7)]


def test_interpreter_that_ends_is_an_error_in_words(work: Any) -> None:
    systems = importlib.import_module("stress_systems")

    with (
        systems.running_elsewhere([sys.executable, "-c", "input()"], dict(os.environ)) as run,
        pytest.raises(RuntimeError, match="ended before it had answered"),
    ):
        run("cube", 5)


@pytest.mark.parametrize("in_turn", [False, True])
def test_scaling_picture_is_drawn_from_a_result(work: Any, in_turn: bool) -> None:
    def line(system: str, cpus: int, median: float, n: int = 400) -> dict[str, Any]:
        return {"system": system, "shape": "cube", "size": n, "cpus": cpus, "median": median}

    lines = [line("python", 1, 4.0), line("forks_static", 1, 4.0), line("forks_static", 2, 2.0)]
    lines += [line("sparkray", 1, 4.1), line("sparkray", 2, 2.1), line("ray", 2, 2.6), line("joblib", 2, 2.2)]
    foretold = [{"shape": "cube", "size": 400, "cpus": cpus, "efficiency": 1 / cpus} for cpus in (1, 28, 84)]
    picture = io.BytesIO()

    facts = {"loops": {"values": lines}, "predicted": foretold}
    if in_turn:
        passes = {"forks_static": [[1.0, 1.9], [1.0, 1.8]], "forks_counter": [[1.0, 1.95]], "sparkray": [[1.0, 1.9]]}
        facts["turns"] = {"values": [{"shape": "cube", "size": 400, "cpus": 2, "outcomes": [{"turns": passes}]}]}

    importlib.import_module("stress_plot").draw(facts, picture)

    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 100  # something is on it


def test_result_without_loops_is_refused_in_words(work: Any) -> None:
    with pytest.raises(ValueError, match="there are no loops over a cube in this result"):
        importlib.import_module("stress_plot").draw({"loops": {"values": []}}, io.BytesIO())


@pytest.mark.slow
def test_all_systems_and_shapes_run_and_give_right_answers(tmp_path: Path) -> None:
    facts = run(tmp_path, "--quick", "--cpus", "2", "--parts", "loops,tasks")

    assert {line["system"] for line in facts["loops"]["values"]} >= {"python", "sparkray", "multiprocessing"}
    assert [(line["shape"], line["outcomes"][0]["counts"]["executions"]) for line in facts["tasks"]["values"]] == [
        (shape, 30) for shape in ("none", "flat", "nested", "actors", "tree")
    ]
    assert len(facts["loops"]["values"][0]["outcomes"][0]["part_seconds"]) == 20


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_same_on_a_local_cluster_of_spark(tmp_path: Path) -> None:
    words = ("--quick", "--cpus", "2", "--parts", "loops", "--systems", "sparkray_on_spark")

    facts = run(tmp_path, *words)

    assert [(line["system"], len(line["outcomes"])) for line in facts["loops"]["values"]] == [("sparkray_on_spark", 1)]


@pytest.mark.slow
def test_sums_are_right_while_workers_are_killed(tmp_path: Path) -> None:
    facts = run(tmp_path, "--quick", "--cpus", "2", "--parts", "kills", "--kill-every", "0.5")

    counts = [line["outcomes"][0]["counts"] for line in facts["kills"]["values"]]
    assert len(counts) == 4
    assert all(count["kills"] > 0 for count in counts)
    assert all(count["executions"] >= count["passes"] * 10_000 for count in counts)


def run(folder: Path, *words: str) -> Any:
    """A wrong sum, and a process that is left behind, would stand in its lines."""
    results = folder / "stress.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "stress.py"), "--json", str(results), *words],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LEFT BEHIND" not in done.stdout, done.stdout
    return json.loads(results.read_text())
