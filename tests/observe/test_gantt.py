"""The Gantt chart of a timeline."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from sparkray.gantt import _rows_and_spans, draw_gantt

PNG = b"\x89PNG\r\n\x1a\n"


def bar(name: str, tid: int, ts: float, dur: float, pid: int = 1, cat: str = "task") -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": {}}


def label(kind: str, name: str, pid: int, tid: int) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def test_there_is_a_row_for_each_process_in_which_something_ran(tmp_path: Path) -> None:
    events = [
        label("process_name", "node a", 1, 0),
        label("thread_name", "worker (pid 7)", 1, 7),
        label("thread_name", "driver (pid 1)", 1, 1),
        bar("get", 1, 0, 100, cat="get"),
        bar("load", 7, 10, 5),
        bar("load", 7, 20, 5),
    ]
    rows, spans = _rows_and_spans(events)
    assert rows == [((1, 7), "worker (pid 7)")]
    assert len(spans) == 2
    path = tmp_path / "chart.png"
    assert draw_gantt(events, str(path), "a title") == 2
    assert path.read_bytes().startswith(PNG)

    in_memory = io.BytesIO()
    assert draw_gantt(events, in_memory, "a title") == 2
    assert in_memory.getvalue().startswith(PNG)


def test_rows_of_several_nodes_say_which(tmp_path: Path) -> None:
    events = [label("process_name", "node a", 1, 0), bar("load", 7, 0, 1), bar("load", 8, 0, 1, pid=2)]
    assert [text for _, text in _rows_and_spans(events)[0]] == ["node a: 7", "2: 8"]


def test_many_names_share_the_last_colour(tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    assert draw_gantt([bar(f"task {k}", 7, k, 1) for k in range(40)], str(path)) == 40
    assert path.read_bytes().startswith(PNG)


def test_where_nothing_ran_there_is_no_chart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing ran"):
        draw_gantt([bar("get", 1, 0, 1, cat="get")], str(tmp_path / "chart.png"))


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw_gantt([bar("load", 7, 0, 1)], str(tmp_path / "chart.png"))
