"""Progress bars, for those who wait at a terminal or in a notebook."""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
from typing import Any

from sparkray.data.context import DataContext

SHOW_AFTER_S = 0.5  # what is done sooner needs no bar
REDRAW_S = 0.1  # in a notebook, each time is a message to whoever looks


def wanted() -> bool:
    """Whether anybody looks: by `DataContext.enable_progress_bars`, else a terminal or notebook."""
    told = DataContext.get_current().enable_progress_bars
    return _somebody_looks() if told is None else told


def _somebody_looks() -> bool:
    is_terminal: Any = getattr(sys.stderr, "isatty", bool)  # what services put in its place may lack it
    return _in_notebook() or (bool(is_terminal()) and os.environ.get("TERM") != "dumb")


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


class Bar:
    """Counts blocks: in a notebook's page, or at a terminal by tqdm, if that is installed, else by rich.

    Nothing at all if nobody looks.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._shown: Any = None
        self._rows = 0

    def __enter__(self) -> Bar:
        if self._total > 1 and wanted() and threading.current_thread() is threading.main_thread():
            self._shown = _open(self._what, self._total)
        return self

    def add(self, blocks: int, rows: int) -> None:
        if self._shown is not None:
            self._rows += rows
            self._shown.add(blocks, self._rows)

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.close()
            self._shown = None


def _open(what: str, total: int) -> Any:
    if _in_notebook():
        return _Page(what, total)
    try:
        from tqdm import tqdm  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return _Rich(what, total)
    return _Tqdm(tqdm(desc=what, total=total, unit="block", delay=SHOW_AFTER_S, leave=False, dynamic_ncols=True))


class _Page:
    """A line of HTML below the cell, which stays there when all is done.

    Not a widget: that needs ipywidgets here and its half in whatever shows the page, and is lost in a saved notebook.
    tqdm and rich would draw one, or warn that they cannot.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done = self._rows = 0
        self._began = self._drawn = time.monotonic()
        self._shown: Any = None
        self._lock = threading.Lock()
        # Not by the first block that comes: one that takes a minute would be waited for without a bar. In the context
        # of the cell, by which the kernel knows where on the page it belongs.
        show = contextvars.copy_context().run
        self._timer = threading.Timer(SHOW_AFTER_S, show, (self._show,))
        self._timer.daemon = True
        self._timer.start()

    def add(self, blocks: int, rows: int) -> None:
        with self._lock:
            self._done += blocks
            self._rows = rows
            if time.monotonic() - self._drawn >= REDRAW_S:
                self._redraw()

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._redraw()
            self._total = 0  # a timer that is past cancelling shows nothing any more

    def _show(self) -> None:
        from IPython import display

        show: Any = display.display
        with self._lock:
            if self._total:
                self._shown = show(self._as_mime(), raw=True, display_id=True)

    def _redraw(self) -> None:
        if self._shown is not None:
            self._drawn = time.monotonic()
            self._shown.update(self._as_mime(), raw=True)

    def _as_mime(self) -> dict[str, str]:
        import html

        took = time.monotonic() - self._began
        left = f", about {took / self._done * (self._total - self._done):.0f} s left" if self._done else ""
        text = (
            f"{self._what}: {self._done} of {self._total} blocks, {self._rows:,} rows, "
            f"{took:.1f} s{left if self._done < self._total else ''}"
        )
        bar = f'<progress max="{self._total}" value="{self._done}" style="width: 16em"></progress>'
        return {"text/html": f"{bar} {html.escape(text)}", "text/plain": text}


class _Tqdm:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def add(self, blocks: int, rows: int) -> None:
        self._bar.set_postfix_str(f"{rows:,} rows", refresh=False)
        self._bar.update(blocks)

    def close(self) -> None:
        self._bar.close()


class _Rich:
    def __init__(self, what: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("blocks, {task.fields[rows]:,} rows"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(what, total=total, rows=0)
        self._progress.start()

    def add(self, blocks: int, rows: int) -> None:
        self._progress.update(self._task, advance=blocks, rows=rows)

    def close(self) -> None:
        self._progress.stop()
