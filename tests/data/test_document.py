"""The examples of docs/data.md run, in one process, from top to bottom."""

from __future__ import annotations

from pathlib import Path

from tests.pages import python_of, run_program


def test_the_examples_run(tmp_path: Path) -> None:
    blocks = python_of("docs/data.md")
    assert len(blocks) == 4

    printed = run_program("\n".join(blocks), tmp_path)

    for shown in (
        "100 rows in Dataset(",
        "[{'id': 0, 'twice': 0}, {'id': 1, 'twice': 2}, {'id': 2, 'twice': 4}]",
        "[{'name': 'a', 'tag': 'x'}]",
        "[{'scored': 0}, {'scored': 10}]",
        "4000\n4000\n2000\n",
        "499950000\n[{'id': 9999}, {'id': 9998}]",
        "2500 40000 ['id', 'twice'] ('",
    ):
        assert shown in printed, f"{shown}: {printed}"
