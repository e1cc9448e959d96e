"""Progress bars: for whom, by what, and not at all."""

from __future__ import annotations

import builtins
import io
import sys
import types
from typing import Any

import pytest

from sparkray.data import DataContext, core, execution, progress


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> DataContext:
    monkeypatch.setattr(DataContext, "_current", DataContext())
    return DataContext.get_current()


class Told:
    """Stands in for tqdm's bar."""

    made: list[Told] = []  # noqa: RUF012

    def __init__(self, **how: Any) -> None:
        self.how, self.blocks, self.text, self.closed = how, 0, "", False
        Told.made.append(self)

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.text = text

    def update(self, blocks: int) -> None:
        self.blocks += blocks

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def bars(context: DataContext, monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """Those that were made of tqdm's."""
    module = types.ModuleType("tqdm")
    module.tqdm = Told  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm", module)
    context.enable_progress_bars = True
    Told.made.clear()
    return Told.made


def test_bars_are_tqdm_s_where_it_is_installed(context: DataContext, bars: list[Told], ray: Any) -> None:
    ray.data.range(1000, override_num_blocks=4).map_batches(lambda batch: batch).count()
    (bar,) = bars
    assert (bar.how["total"], bar.blocks, bar.text, bar.closed) == (4, 4, "1,000 rows", True)

    context.enable_progress_bars = False
    ray.data.range(1000, override_num_blocks=4).materialize()
    assert len(bars) == 1


def test_a_bar_is_there_while_a_pool_of_actors_starts(
    bars: list[Told], monkeypatch: pytest.MonkeyPatch, ray: Any
) -> None:
    there: list[int] = []

    def started(*words: Any) -> Any:
        there.append(len(bars))
        return execution.started(*words)

    monkeypatch.setattr(core, "started", started)
    ray.data.range(1000, override_num_blocks=4).map_batches(lambda batch: batch).materialize()
    assert there == [1]
    (bar,) = bars
    assert (bar.how["total"], bar.blocks, bar.text, bar.closed) == (4, 4, "1,000 rows", True)


def test_without_tqdm_rich_shows_them(
    context: DataContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without_tqdm(name: str, *rest: Any) -> Any:
        if name.startswith("tqdm"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_tqdm)
    monkeypatch.setenv("FORCE_COLOR", "1")  # takes what it writes to for a terminal
    monkeypatch.setenv("TERM", "xterm")
    context.enable_progress_bars = True
    with progress.Bar("what", 3) as bar:
        bar.add(3, 30_000)
    shown = capsys.readouterr().err
    assert "what" in shown
    assert "30,000 rows" in shown


def test_nobody_looks_at_a_pipe(context: DataContext, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not progress.wanted()
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert progress.wanted()
    monkeypatch.setenv("TERM", "dumb")
    assert not progress.wanted()
    monkeypatch.setattr(DataContext, "_current", None)
    monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    assert DataContext.get_current().enable_progress_bars is False
