"""What README shows is run as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.pages import python_of, run_program

SNIPPETS = python_of("README.md")


@pytest.mark.spark
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme_s_program_runs_and_prints_what_it_says(number: int, tmp_path: Path) -> None:
    printed = run_program(SNIPPETS[number], tmp_path, {"PYSPARK_PYTHON": sys.executable})

    for promised in re.findall(r"print\(.*\)  +# (.*)", SNIPPETS[number]):
        assert promised in printed
