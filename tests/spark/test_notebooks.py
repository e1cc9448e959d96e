"""`notebooks/`, each from top to bottom in a kernel of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import kernels
from tests.kernels import cells_of, end, shown_by

from .conftest import SMALL_JVM

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICKSTART = NOTEBOOKS[0]
GONE_S = 15.0  # for the JVM, too, on a machine with other work


def start(notebook: Path, folder: Path, *stop: str) -> subprocess.Popen[str]:
    small = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1", "JDK_JAVA_OPTIONS": SMALL_JVM}
    return kernels.start(notebook, folder, *stop, **small)


def lives(process: psutil.Process) -> bool:
    """Whoever inherits an orphan may take a while to bury it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_lies_here_without_outputs(path: Path) -> None:
    assert [cell for cell in cells_of(path) if cell["outputs"] or cell["execution_count"] is not None] == []


@pytest.mark.slow
def test_quickstart_runs_and_shows_tables_and_a_picture(tmp_path: Path) -> None:
    end(start(QUICKSTART, tmp_path), tmp_path)

    shown = shown_by(tmp_path / "result.ipynb")
    page = "\n".join(shown)
    assert re.search(r"<b>RayContext</b> on <code>local\[2\]</code><table>", page)
    assert re.search(r"<b>Dataset</b> of [\d,]+ rows in 4 blocks", page)
    assert re.search(r"Seattle: \w+, learnt from [\d,]+ hours in process \d+", page)
    assert "1 winter" in page
    assert any(text.startswith("iVBOR") for text in shown)  # a PNG


SHOWN = {  # by the others; PNG and GIF begin with "iVBOR" and "R0lGOD" in base 64
    "02_tasks_and_actors": [
        r"<b>sparkray session</b> is up<table>",
        r"one after the other, \d+\.\d\d s on \d+ CPUs",
        r"<code>ObjectRef\(\w+\)</code> is there",
        r"<progress .*max='24' value='24'",
        r"<b>twice\(\) \[\w+\]</b> WAITS_FOR_ARGUMENTS",
        r"RayTaskError.*ValueError",
        r"<code>Actor\(Canvas, \w+\)</code> alive",
        r"\['done', 'done'\]\nattempts: \[2, 3\]",
        r"^iVBOR",
    ],
    "03_render_farm": [
        r"measured / ideal: \d+\.\d\d / 11 = \d\.\d\d\d",
        r"^R0lGOD",
        r"^iVBOR",
        r"^worker +\d+  (?=.*m)[mr.]{11,}$",
    ],
    "04_dataframes_to_models": [
        r"<b>RayContext</b> on <code>spark://",
        r"<b>Dataset</b> of 1,095 rows in 4 blocks",
        r"<progress .*max='21' value='21'",
        r"<code>ObjectRef\(\w+\)</code>",
        r"^the best of 21: [\w ]+ \([\d.]+\), \w+: 0\.7\d\d$",
        r"<b>Dataset</b> of 364 rows in 4 blocks",
        r"all of 2015",
        r"^iVBOR",
        r"3 nodes stopped in",
    ],
    "05_when_things_die": [
        r"^process \d+ did +\d+ of the tasks and was killed$",
        r"^Ledger +\[10, 30, 60\], killed, and 40 more: 40$",
        r"^SafeLedger +\[10, 30, 60\], killed, and 40 more: 100$",
        r"^joined: (\w+)\s+killed: \1\s+joined: (\w+)\s+made on \2\s+killed: \2$",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem in SHOWN], ids=lambda path: path.stem)
def test_notebook_runs_and_shows(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    end(start(path, folder), folder)

    page = "\n".join(shown_by(folder / "result.ipynb"))
    assert [words for words in SHOWN[path.stem] if not re.search(words, page, re.MULTILINE)] == []


@pytest.mark.slow
def test_killed_kernel_leaves_nothing_of_ours(tmp_path: Path) -> None:
    """A kernel's restart ends the process at once, here while a session is up, and actors hold models."""
    runner = start(QUICKSTART, tmp_path, "ctx.stop()")
    assert runner.stdout is not None
    told = runner.stdout.readline()
    assert told, (tmp_path / "log").read_text()[-4000:]
    started = psutil.Process(int(told)).children(recursive=True)
    assert [one for one in started if one.name().startswith("sparkray")]

    os.kill(int(told), signal.SIGKILL)

    deadline = time.monotonic() + GONE_S
    base = Path(os.environ["SPARKRAY_BASE_FOLDER"])
    while left := [*filter(lives, started), *base.glob("*/*")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    end(runner, tmp_path)
