"""Which of the real clusters a run of the tests had: said at its end, since a skip is soon overlooked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

CLUSTERS = {"YARN": "spark/test_yarn", "Kubernetes": "spark/test_kubernetes"}
_COUNTED = {"passed": "passed", "failed": "failed", "error": "errors", "skipped": "skipped"}


def summary(reports: Mapping[str, Sequence[Any]]) -> str | None:
    """A line about the clusters whose tests were asked for, or none if none were.

    Args:
        reports: pytest's, by outcome. A module that skips itself has one of its collection.
    """
    words = [f"{name} {_describe(files, reports)}" for name, files in CLUSTERS.items()]
    return f"clusters: {', '.join(words)}" if any(_found(files, reports) for files in CLUSTERS.values()) else None


def _found(files: str, reports: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    mine = {outcome: [report for report in reports.get(outcome, ()) if files in report.nodeid] for outcome in _COUNTED}
    return {outcome: found for outcome, found in mine.items() if found}


def _describe(files: str, reports: Mapping[str, Sequence[Any]]) -> str:
    found = _found(files, reports)
    reasons = "; ".join(dict.fromkeys(map(_reason, found.get("skipped", ()))))
    if not found:
        return "not asked for"
    if list(found) == ["skipped"]:
        return f"NOT run: {reasons}"
    counts = ", ".join(f"{len(reports)} {_COUNTED[outcome]}" for outcome, reports in found.items())
    return f"run ({counts}{f': {reasons}' if reasons else ''})"


def _reason(report: Any) -> str:
    _, _, text = report.longrepr  # file, line, and what was said
    return re.sub(r"^Skipped: ", "", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    line = summary(terminalreporter.stats)
    if line is not None:
        terminalreporter.write_line(line)
