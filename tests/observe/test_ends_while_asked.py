"""A worker that ends between its answer and its raylet's: each of its tasks and counts is told once."""

from __future__ import annotations

from typing import Any

import pytest

import sparkray.chrome_trace
import sparkray.metrics_export
import sparkray.util.state.tasks
from sparkray.session import core
from sparkray.util import metrics, state
from sparkray_core.run import survey

CALLS = 6


def ending(ray: Any, until: Any, monkeypatch: Any, module: Any) -> None:
    """An actor that has answered some calls; it ends right after it was asked what `module` asks of all processes."""

    class Ends:
        def __init__(self) -> None:
            self.counter = metrics.Counter("calls_until_the_end")

        def call(self) -> bytes:
            self.counter.inc()
            return bytes.fromhex(sparkray.get_runtime_context().get_worker_id())

    actor: Any = ray.remote(Ends).remote()
    worker = ray.get([actor.call.remote() for _ in range(CALLS)])[0]
    real = module.ask_processes

    def ask_and_end(*args: Any) -> Any:
        found = real(*args)
        actor.__ray_terminate__.remote()
        until(lambda: any(worker in dict(left) for left in survey.ask_nodes(core(), "former").answers.values()))
        return found

    monkeypatch.setattr(module, "ask_processes", ask_and_end)


def test_its_tasks_are_listed_once(ray: Any, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ending(ray, until, monkeypatch, sparkray.util.state.tasks)

    listed = [task.name for task in state.list_tasks(limit=10_000) if task.name.startswith("Ends.")]

    assert sorted(listed) == ["Ends.__init__", "Ends.__ray_terminate__", *["Ends.call"] * CALLS]


def test_its_tasks_are_drawn_once(ray: Any, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sum(event["name"] == "Ends.call" for event in ray.timeline())
    ending(ray, until, monkeypatch, sparkray.chrome_trace)

    drawn = sum(event["name"] == "Ends.call" for event in ray.timeline())

    assert drawn - before == CALLS


def test_its_counts_are_summed_once(ray: Any, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = sparkray.metrics_export.Exporter(core())

    def count() -> float:
        lines = [line for line in exporter.text().splitlines() if line.startswith("ray_calls_until_the_end_total")]
        return float(lines[0].split()[-1]) if lines else 0.0

    before = count()
    ending(ray, until, monkeypatch, sparkray.metrics_export)

    assert count() - before == CALLS
