"""The examples of docs/observability.md run, in one process, from top to bottom."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"


def test_the_examples_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    program = tmp_path / "examples.py"
    program.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=100, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"train\(\) \[\w+\]: waits since [\d.]+ s for 1 argument\n  load\(\) ", done.stdout)
    assert "{'FINISHED': 1}" in done.stdout
    assert "('driver', 'LOCAL_REFERENCE', 1000" in done.stdout
    assert 'ray_rows_total{table="sales"} 100' in done.stdout
    assert any(event["name"] == "load" for event in json.loads((tmp_path / "timeline.json").read_text()))
