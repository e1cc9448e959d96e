"""The examples of docs/actors.md run, from top to bottom, and print what they say."""

from __future__ import annotations

import re
from pathlib import Path

from tests.pages import python_of, run_program


def test_the_examples_run_and_print_what_they_say(tmp_path: Path) -> None:
    blocks = python_of("docs/actors.md")
    assert len(blocks) == 2

    printed = run_program("\n".join(blocks), tmp_path)

    promised = re.findall(r"^print\(.*\)  # (.*)$", "\n".join(blocks), re.MULTILINE)
    assert printed.splitlines() == promised
