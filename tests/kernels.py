"""Notebooks, executed in a kernel as a user would; by `run_notebook.py`, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat

RUNNER = Path(__file__).with_name("run_notebook.py")
LIMIT_S = 240.0  # a machine busy with other tests takes long to start three JVMs


def cells_of(path: Path) -> list[dict[str, Any]]:
    """Those with code."""
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def source_of(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells_of(path)]


def shown_by(path: Path) -> list[str]:
    """What stands below the cells, as text; pictures in base 64."""
    return [
        "".join(text) if isinstance(text, list) else str(text)
        for cell in cells_of(path)
        for output in cell["outputs"]
        for text in (output.get("text", ""), *output.get("data", {}).values())
    ]


def write_notebook(folder: Path, *cells: str) -> Path:
    """One with cells of code only."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])  # type: ignore[no-untyped-call,unused-ignore]
    path = folder / "notebook.ipynb"
    nbformat.write(made, path)  # type: ignore[no-untyped-call,unused-ignore]
    return path


def start(notebook: Path, folder: Path, *stop: str, **environment: str) -> subprocess.Popen[str]:
    """Executes it there, up to the cell that has the words `stop`; leaves `result.ipynb`."""
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", str(RUNNER), str(notebook), str(folder / "result.ipynb"), *stop],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={
                **os.environ,
                "IPYTHONDIR": str(folder / "ipython"),
                "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
                "MPLCONFIGDIR": str(folder / "matplotlib"),
                **environment,
            },
        )


def end(runner: subprocess.Popen[str], folder: Path) -> None:
    runner.communicate(timeout=LIMIT_S)
    assert runner.returncode == 0, (folder / "log").read_text()[-4000:]
