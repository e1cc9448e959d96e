"""The Python that a page of the documents shows, and running it as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_S = 100.0


def python_of(page: str) -> list[str]:
    """The page's blocks of Python, in order; `page` is a path from the root of the repository."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def run_program(source: str, folder: Path, environment: Mapping[str, str] | None = None, limit: float = LIMIT_S) -> str:
    """What it prints as a script of its own, in that folder. It fails the test when it fails."""
    script = folder / "program.py"
    script.write_text(source)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=limit,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
