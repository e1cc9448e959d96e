"""What a run of the tests says at its end about real clusters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.clusters import summary
from tests.pages import ROOT


def report(node: str, reason: str | None = None) -> Any:
    return SimpleNamespace(nodeid=node, longrepr=None if reason is None else ("a file", 1, f"Skipped: {reason}"))


YARN = [report(f"tests/spark/test_yarn.py::test_{number}") for number in range(2)]
KUBERNETES = [report(f"tests/spark/test_kubernetes.py::test_{number}", "no cluster") for number in range(2)]


def test_nothing_is_said_of_clusters_that_nobody_asked_for() -> None:
    assert summary({"passed": [report("tests/test_yarn_job.py::test_x")]}) is None


@pytest.mark.parametrize(
    ("reports", "said"),
    [
        ({"passed": YARN, "skipped": KUBERNETES}, "YARN run (2 passed), Kubernetes NOT run: no cluster"),
        ({"failed": YARN[:1], "passed": YARN[1:]}, "YARN run (1 passed, 1 failed), Kubernetes not asked for"),
        (
            {"skipped": [*KUBERNETES, report("tests/spark/test_kubernetes_2.py", "no image")]},
            "YARN not asked for, Kubernetes NOT run: no cluster; no image",
        ),
        (
            {"error": YARN, "passed": KUBERNETES[:1], "skipped": KUBERNETES[1:]},
            "YARN run (2 errors), Kubernetes run (1 passed, 1 skipped: no cluster)",
        ),
    ],
)
def test_what_ran_is_told_from_what_did_not(reports: dict[str, list[Any]], said: str) -> None:
    assert summary(reports) == f"clusters: {said}"


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [[], ["--numprocesses=2", "--dist=loadfile"]], ids=["alone", "beside each other"])
def test_the_line_stands_at_the_end_of_a_run(at_once: list[str], tmp_path: Path) -> None:
    """A whole module that skips itself included, which has no test to report."""
    (tmp_path / "conftest.py").write_text("from tests.clusters import pytest_terminal_summary\n")
    (tmp_path / "spark").mkdir()
    (tmp_path / "spark" / "test_yarn.py").write_text("def test_a(): pass\ndef test_b(): pass\n")
    words = "import pytest\npytest.skip('KUBECONFIG is not set', allow_module_level=True)\n"
    (tmp_path / "spark" / "test_kubernetes.py").write_text(words)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "--rootdir", str(tmp_path), *at_once, "."],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "clusters: YARN run (2 passed), Kubernetes NOT run: KUBECONFIG is not set\n" in done.stdout, done.stdout
