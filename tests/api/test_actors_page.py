"""The examples of docs/actors.md run, from top to bottom, and print what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "actors.md"


def test_the_examples_run_and_print_what_they_say(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    program = tmp_path / "examples.py"
    program.write_text("\n".join(blocks))

    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=100, cwd=tmp_path, check=False
    )

    assert done.returncode == 0, done.stderr
    promised = re.findall(r"^print\(.*\)  # (.*)$", "\n".join(blocks), re.MULTILINE)
    assert done.stdout.splitlines() == promised
