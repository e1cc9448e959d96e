"""The simulator that tells how long things take: `sparkray_core.testing.simulate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sparkray_core.testing import simulate
from sparkray_core.testing.costs import Costs, read_costs
from sparkray_core.testing.histogram import Histogram
from sparkray_core.testing.simulate import durations, predict

_TIMES = {name: 0.0 for name in vars(Costs()) if name.endswith("_s") and "bytes" not in name}
NOTHING_COSTS = replace(Costs(), **_TIMES)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_with_costs_of_nothing_the_cpus_are_busy_all_the_time() -> None:
    prediction = predict([0.5] * 80, nodes=4, cpus_per_node=5, costs=NOTHING_COSTS)

    assert prediction.efficiency == pytest.approx(1, abs=0.02)
    assert prediction.makespan == pytest.approx(2, abs=0.04)


@pytest.mark.parametrize("nodes", [1, 3])
def test_no_prediction_is_better_than_the_longest_task_or_all_cpus_at_work(nodes: int) -> None:
    tasks = durations("exponential:0.02", 300, seed=5)

    prediction = predict(tasks, nodes=nodes, cpus_per_node=2)

    assert prediction.makespan > max(max(tasks), sum(tasks) / (2 * nodes))
    assert 0.5 < prediction.efficiency < 1
    assert prediction.messages_per_task["PushTasks"] <= 1.5


def test_a_driver_that_takes_longer_for_a_task_than_all_workers_do_sets_the_pace() -> None:
    costs = replace(Costs(), driver_submit_s=0.001)

    prediction = predict([0.0001] * 500, nodes=2, cpus_per_node=4, costs=costs)

    assert prediction.throughput == pytest.approx(1000, rel=0.15)
    assert prediction.busy["driver"] > 0.95


def test_a_long_task_does_not_hold_up_what_was_pushed_behind_it() -> None:
    prediction = predict([0.0002] * 200 + [0.5] + [0.0002] * 200, cpus_per_node=2)

    assert prediction.makespan < 0.6
    assert prediction.messages_per_task["StealTasks"] > 0


def test_drivers_on_their_own_nodes_are_faster_than_one() -> None:
    tasks = [0.001] * 1600
    costs = replace(Costs(), driver_submit_s=0.0005)

    one, four = (predict(tasks, nodes=4, cpus_per_node=4, costs=costs, drivers=drivers) for drivers in (1, 4))

    assert four.throughput > 2 * one.throughput


def test_messages_that_are_encoded_say_the_same_as_those_that_are_not() -> None:
    tasks = durations("uniform:0.001:0.01", 200, seed=3)
    costs = replace(Costs(), network_bytes_per_s=1e30)  # else their sizes, which are estimated, would matter

    bare, coded = (predict(tasks, nodes=3, cpus_per_node=2, costs=costs, with_bytes=coded) for coded in (False, True))

    assert coded.bytes_per_task is not None
    assert coded.bytes_per_task > 50
    assert replace(coded, bytes_per_task=None) == bare


def test_same_arguments_print_the_same_but_for_times_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--nodes", "5", "--tasks", "1000", "--task-seconds", "pareto:0.001:1.5", "--drivers", "2", "--seed"]
    script = "import sys; from sparkray_core.testing.simulate import main; main(sys.argv[1:])"
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    elsewhere = subprocess.run(
        [sys.executable, "-c", script, *words, "4"], env=env, capture_output=True, text=True, check=True
    ).stdout

    printed = []
    for seed in ("4", "5"):
        assert simulate.main([*words, seed]) == 0
        printed.append(capsys.readouterr().out)

    same, other = (text.split("on this machine")[0] for text in printed)
    assert elsewhere.split("on this machine")[0] == same
    assert same != other
    assert "1000 tasks of pareto:0.001:1.5 s, 5 nodes, 20 CPUs" in same


def test_without_a_length_tasks_are_as_long_as_one_driver_needs_to_keep_all_cpus_busy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert simulate.main(["--nodes", "60", "--cpus-per-node", "8", "--tasks", "960"]) == 0

    assert capsys.readouterr().out.startswith("960 tasks of 0.03 s, 60 nodes, 480 CPUs\n")


def test_facts_and_costs_are_read_and_written_as_json(tmp_path: Path) -> None:
    costs, facts = tmp_path / "costs.json", tmp_path / "facts.json"
    costs.write_text('{"driver_submit_s": 0.01}')

    words = f"--nodes 1 --cpus-per-node 1 --tasks 20 --task-seconds 0 --costs {costs} --json {facts}"
    assert simulate.main(words.split()) == 0

    written = json.loads(facts.read_text())
    assert written["costs"]["driver_submit_s"] == 0.01
    assert written["predicted"]["makespan"] > 0.2
    assert set(written["measured"]["us_per_task"]) == {"owner", "raylet", "head", "worker"}


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "no JSON"), ("[1]", "one object"), ('{"speed": 1}', "names speed"), ('{"local_s": -1}', "at least 0")],
)
def test_what_is_wrong_with_a_file_of_costs_is_said(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)

    with pytest.raises(ValueError, match=says):
        read_costs(path)


@pytest.mark.parametrize("what", ["fast", "uniform:1", "pareto:1:0", "-1", "gauss:1:2", ""])
def test_durations_that_mean_nothing_are_refused(what: str) -> None:
    with pytest.raises(ValueError, match="Write seconds"):
        durations(what, 3, 1)


def test_percentiles_are_right_within_one_percent() -> None:
    histogram = Histogram()
    for number in range(1, 1001):
        histogram.add(number / 1000)

    assert histogram.percentile(0.5) == pytest.approx(0.5, rel=0.011)
    assert histogram.percentile(0.99) == pytest.approx(0.99, rel=0.011)
    assert histogram.mean == pytest.approx(0.5005)
    assert histogram.largest == 1


@pytest.mark.slow
def test_a_thousand_nodes_are_simulated_with_all_their_beats_and_leases() -> None:
    prediction = predict([1.0] * 40_000, nodes=1000, cpus_per_node=4)

    assert prediction.efficiency > 0.9
    assert prediction.granted >= 4000
    assert sum(prediction.messages_per_task.values()) < 4
