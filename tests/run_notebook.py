"""Executes a notebook in a kernel of its own, for kernels.py: in a process that ends with all that it has open.

python run_notebook.py NOTEBOOK RESULT            all of it; RESULT is the notebook with its outputs
python run_notebook.py NOTEBOOK RESULT WORDS      up to the cell that has these words; prints the kernel's pid, and
                                                  waits for the end of stdin
"""

from __future__ import annotations

import sys
from typing import Any

import nbformat
from nbclient import NotebookClient

CELL_LIMIT_S = 240


def main(path: str, result: str, stop: str | None = None) -> None:
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call, unused-ignore]
    nbformat.validate(notebook)
    client: Any = NotebookClient(notebook, timeout=CELL_LIMIT_S)
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            if stop is not None and stop in cell.source:
                sys.stdout.write(f"{client.km.provisioner.process.pid}\n")
                sys.stdout.flush()
                sys.stdin.read()
                break
            if cell.cell_type == "code":
                client.execute_cell(cell, number)
        nbformat.write(notebook, result)  # type: ignore[no-untyped-call, unused-ignore]


if __name__ == "__main__":
    main(*sys.argv[1:])
