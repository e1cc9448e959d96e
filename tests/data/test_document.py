"""The examples of docs/data.md run, in one process, from top to bottom."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_examples_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    program = tmp_path / "examples.py"
    program.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=100, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    for shown in (
        "100 rows in Dataset(",
        "[{'id': 0, 'twice': 0}, {'id': 1, 'twice': 2}, {'id': 2, 'twice': 4}]",
        "[{'name': 'a', 'tag': 'x'}]",
        "[{'scored': 0}, {'scored': 10}]",
        "4000\n4000\n2000\n",
        "499950000\n[{'id': 9999}, {'id': 9998}]",
        "2500 40000 ['id', 'twice'] ('",
    ):
        assert shown in done.stdout, f"{shown}: {done.stdout}"
