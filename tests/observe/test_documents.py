"""The examples of docs/observability.md run, in one process, from top to bottom."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.pages import python_of, run_program


def test_the_examples_run(tmp_path: Path) -> None:
    blocks = python_of("docs/observability.md")
    assert len(blocks) == 4

    printed = run_program("\n".join(blocks), tmp_path)

    assert re.search(r"train\(\) \[\w+\]: waits since [\d.]+ s for 1 argument\n  load\(\) ", printed)
    assert "{'FINISHED': 1}" in printed
    assert "('driver', 'LOCAL_REFERENCE', 1000" in printed
    assert 'ray_rows_total{table="sales"} 100' in printed
    assert any(event["name"] == "load" for event in json.loads((tmp_path / "timeline.json").read_text()))
