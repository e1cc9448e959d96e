"""The pictures in the engine's README are those of the code."""

from pathlib import Path

from sparkray_core.testing.pictures import redraw

README = Path(__file__).parents[2] / "core" / "README.md"


def test_the_state_pictures_are_drawn_from_the_tables() -> None:
    text = README.read_text()
    assert "stateDiagram" in text
    assert redraw(text) == text, "run: python -m sparkray_core.testing.pictures core/README.md"
