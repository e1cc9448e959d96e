"""`examples/render_farm.py`: both of its programs make the same film, and its last frame is the sentence."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFont

from tests.kernels import source_of
from tests.pages import ROOT

SCRIPT = ROOT / "examples" / "render_farm.py"
NOTEBOOK = ROOT / "notebooks" / "03_render_farm.ipynb"
FRAMES = 10


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--folder", str(folder), "--unit", "0.05", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def frames_of(path: Path) -> list[Image.Image]:
    opened: Any = Image.open(path)
    with opened as film:
        assert film.size == (640, 200)
        assert film.info["loop"] == 0
        found = []
        for number in range(film.n_frames):
            film.seek(number)
            found.append(film.convert("RGB"))
    return found


def differing(one: Image.Image, other: Image.Image) -> float:
    """The share of pixels that differ by more than a palette does."""
    return sum(ImageChops.difference(one, other).convert("L").histogram()[60:]) / (one.width * one.height)


def sentence() -> Image.Image:
    """As somebody else would set it."""
    font, picture = ImageFont.load_default(56), Image.new("RGB", (640, 200), "white")
    words = ("Data", "Value", "Consulting")
    x = (640 - sum(font.getlength(word) for word in words) - 16 * 2) / 2
    for word, colour in zip(words, ("#2a78c2", "#d1495b", "#26323c"), strict=True):
        ImageDraw.Draw(picture).text((round(x), 72), word, fill=colour, font=font)
        x += font.getlength(word) + 16
    return picture


def test_the_film_ends_with_the_sentence_and_the_serial_program_makes_the_same(tmp_path: Path) -> None:
    (tmp_path / "serial").mkdir()
    said = run(tmp_path)
    film = frames_of(tmp_path / "render-farm.gif")
    assert len(film) == FRAMES
    assert differing(film[-1], sentence()) < 0.001
    assert all(differing(before, after) > 0.001 for before, after in pairwise(film))
    assert differing(film[0], sentence()) > 0.03
    assert re.search(r"\d+\.\d\d units of time; ideal 11: \d\.\d+; one after the other 40", said)
    rows = re.findall(r"^worker +\d+  ([mr.]+)$", said, re.MULTILINE)
    assert len(rows) == 4
    assert {"m", "r"} <= set("".join(rows))
    assert (tmp_path / "render-farm.png").read_bytes().startswith(b"\x89PNG")

    assert "serial: " in run(tmp_path / "serial", "--serial")
    other = frames_of(tmp_path / "serial" / "render-farm.gif")
    assert [differing(one, two) for one, two in zip(film, other, strict=True)] == [0.0] * FRAMES


@pytest.mark.parametrize("words", [("--frames", "1"), ("--unit", "0")])
def test_a_film_that_cannot_be_is_refused(words: tuple[str, str]) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "a film has two frames at least" in done.stderr


def functions_of(source: str) -> dict[str, str]:
    """Those of a module, as they would be written without types."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            node.body[:] = map(without_type, node.body)
        elif isinstance(node, ast.arg):
            node.annotation = None
    return {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def without_type(node: ast.stmt) -> ast.stmt:
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return ast.copy_location(ast.Assign([node.target], node.value), node)
    return node


def test_the_notebook_has_the_script_s_two_programs() -> None:
    script, notebook = (functions_of(source) for source in (SCRIPT.read_text(), "\n".join(source_of(NOTEBOOK))))
    assert notebook == {name: script[name] for name in ("serial", "farm")}
