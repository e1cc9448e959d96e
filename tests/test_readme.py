"""What README shows is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.spark
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme_s_program_runs_and_prints_what_it_says(number: int, tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text(SNIPPETS[number])
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}

    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False, env=environment
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for promised in re.findall(r"print\(.*\)  +# (.*)", SNIPPETS[number]):
        assert promised in done.stdout
