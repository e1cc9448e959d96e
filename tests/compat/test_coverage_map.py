"""README.md says where the cases of Ray's tests are covered: each place that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TOLD = (HERE / "README.md").read_text()


def test_every_place_that_is_named_is_there() -> None:
    named = set(re.findall(r"`([\w/]+\.(?:py|txt|md))`", TOLD))

    assert len(named) > 40
    missing = [
        name
        for name in sorted(named)
        if not any((folder / name).exists() for folder in (HERE.parent, HERE, HERE.parent.parent))
    ]
    assert missing == []


def test_every_file_of_rays_is_told_of_once() -> None:
    files = [name for line in re.findall(r"^## (.*)$", TOLD, re.MULTILINE) for name in re.findall(r"\S+\.py", line)]

    assert len(files) > 40
    assert sorted(set(files)) == sorted(files)
