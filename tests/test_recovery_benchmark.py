"""`benchmarks/recovery.py` runs, and its page says what was measured."""

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
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("recovery")


def row(case: str, size: int, system: str, **values: list[float]) -> dict[str, Any]:
    at = {"when": "2026-11-29T09:20+00:00", "machine": {"cores": "2", "load": "0.4 before the run"}}
    return {**at, "case": case, "size": size, "system": system, "version": "1", "values": values, "errors": []}


def test_page_has_each_value_and_what_follows_from_two(command: Any) -> None:
    share = {"elsewhere pulled, bytes of 10,000": [10000.0]}
    rows = {
        "a": row("worker", 0, "ray", **{"task us": [3000.0, 1000.0, 2000.0]}),
        "b": row("locality", 10, "sparkray", **{"us": [2e4], "elsewhere us": [1e5]}, **share),
        "c": row("single", 8, "sparkray", **{"nothing, tasks/s": [1000.0]}),
        "d": row("eight", 8, "sparkray", **{"nothing, tasks/s": [900.0]}),
    }
    rows["d"]["errors"] = ["hung"]

    page = command.page(rows)

    for line in (
        "| a killed worker | ray | task | 1.0 - 2.0 - 3.0 ms | 3 | 0.4 |",
        "| inputs of 10 MB | sparkray | as the scheduler wants | 20.0 - 20.0 - 20.0 ms | 1 | 0.4 |",
        "| inputs of 10 MB | sparkray | elsewhere pulled (share of the bytes) | 100.0 - 100.0 - 100.0 % | 1 | 0.4 |",
        "| 8 nodes of one CPU | sparkray | error | hung | | 0.4 |",
        "- sparkray, inputs of 10 MB: elsewhere takes 5.0 times as long.",
        "- sparkray, nothing, tasks/s: eight nodes do 90% of what one does.",
        "- 2026-11-29T09:20 UTC: cores 2, load 0.4 before the run",
    ):
        assert line in page.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_quick_run_measures_every_case(tmp_path: Path) -> None:
    into = tmp_path / "recovery.json"
    words = [str(BENCHMARKS / "recovery.py"), "--quick", "--into", str(into)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=400, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(into.read_text())
    assert {entry["case"] for entry in rows.values()} == {
        *("worker", "node", "silent", "gcs", "locality", "single", "eight")
    }
    assert all(
        value > 0
        for entry in rows.values()
        for name in entry["values"]
        if name.endswith(("us", "/s")) and "extra" not in name
        for value in entry["values"][name]
    )
