"""What the documents point to is there, and what the notebooks import is brought by the extra that they name."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import source_of
from tests.pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "core" / "README.md", *NOTEBOOKS])
MAGIC = {".png": b"\x89PNG", ".gif": b"GIF8"}


def links_of(text: str) -> list[str]:
    """Markdown's links and images to files of the repository, without what follows a #."""
    found = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", text)
    assert all(not link.startswith("/") for link in found)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_to_is_there(page: Path) -> None:
    assert [link for link in links_of(page.read_text()) if not (page.parent / link).exists()] == []


def test_readme_s_pictures_are_pictures() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert {"docs/images/render-farm.gif", "docs/images/rain-in-seattle.png"} <= set(shown)
    for name in shown:
        assert (ROOT / name).read_bytes().startswith(MAGIC[Path(name).suffix]), name


def test_readme_s_table_has_every_notebook_and_the_tutorial() -> None:
    links = set(links_of((ROOT / "README.md").read_text()))
    assert {f"notebooks/{path.name}" for path in NOTEBOOKS} | {"docs/tutorial.md"} <= links


def brought_by(extra: str) -> set[str]:
    """Names of the distributions that `pip install sparkray[extra]` asks for."""
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = toml.loads((ROOT / "pyproject.toml").read_text())["project"]
    names: set[str] = set()
    for wanted in [*project["dependencies"], *project["optional-dependencies"][extra]]:
        match = re.match(r"([\w-]+)(?:\[(\w+)\])?", wanted)
        assert match is not None
        names |= brought_by(match[2]) if match[1] == "sparkray" else {match[1].lower().replace("_", "-")}
    return names


def imported_by(source: str) -> set[str]:
    """First names of the modules that it imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    """By module: who brings it. It reads all that is installed."""
    return packages_distributions()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_needs_nothing_but_the_extra_that_it_names(path: Path) -> None:
    assert 'pip install -e ".[notebooks]"' in path.read_text().replace('\\"', '"')
    examples = {file.stem: file for file in (ROOT / "examples").glob("*.py")}
    imported = imported_by("\n".join(source_of(path)))
    for local in imported & examples.keys():
        imported |= imported_by(examples[local].read_text())
    imported -= {*examples, "sparkray", "sparkray_core", "IPython"}  # the last is what a kernel is
    owners = distributions()
    brought = brought_by("notebooks")
    assert {"jupyterlab", "matplotlib", "pyspark"} <= brought
    assert [name for name in imported if not brought & {one.lower().replace("_", "-") for one in owners[name]}] == []
