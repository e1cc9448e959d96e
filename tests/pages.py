"""The Python that a page of the documents shows, and running it as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LIMIT_S = 100.0
BETWEEN = "\N{SYMBOL FOR RECORD SEPARATOR}"


class Step(NamedTuple):
    code: str
    shown: list[str]  # what the page says it prints, line by line


def python_of(page: str) -> list[str]:
    """The page's blocks of Python, in order; `page` is a path from the root of the repository."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def steps_of(page: str) -> list[Step]:
    """The page's blocks of Python, each with the block of text that follows it; none: it prints nothing."""
    found = re.findall(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
    )
    return [Step(code, shown.splitlines()) for code, shown in found]


def run_steps(
    steps: Sequence[Step], folder: Path, environment: Mapping[str, str] | None = None, limit: float = LIMIT_S
) -> list[Step]:
    """The same steps with what each did print, as one script."""
    program = f"\nprint({BETWEEN!r})\n".join(step.code for step in steps)
    printed = run_program(program, folder, environment, limit).split(BETWEEN + "\n")
    return [
        Step(step.code, [line.rstrip() for line in text.rstrip().splitlines()])
        for step, text in zip(steps, printed, strict=True)
    ]


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
