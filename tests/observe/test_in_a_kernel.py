"""In a real kernel, with ipywidgets and tqdm or without: progress bars and tables are there, warnings are not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import cells_of, end, shown_by, start, write_notebook

WITH = "import ipywidgets, tqdm.notebook"
WITHOUT = "import sys; sys.modules['ipywidgets'] = sys.modules['tqdm'] = None"
CELLS = [
    "import time; import sparkray as ray; ray.init(num_cpus=2)",
    # Two by two, so at least twice as long as it takes until a bar is shown.
    """
def half_a_second(batch):
    time.sleep(0.5)
    return batch

dataset = ray.data.range(4_000, override_num_blocks=4).map_batches(half_a_second).materialize()""",
    "dataset",
    "ray.data.range(4_000, override_num_blocks=4).materialize().count()",  # done before anybody would see a bar
    """
@ray.remote
class Counter: ...

Counter.remote()""",
    "ray.put(1)",
    "ray.shutdown()",
]


def bars(cell: dict[str, Any]) -> list[str]:
    shown = ["".join(output.get("data", {}).get("text/html", "")) for output in cell["outputs"]]
    return [html for html in shown if "<progress" in html]


@pytest.mark.slow
@pytest.mark.parametrize("first", [WITH, WITHOUT], ids=["with", "without"])
def test_bars_and_tables_are_on_the_page(first: str, tmp_path: Path) -> None:
    end(start(write_notebook(tmp_path, first, *CELLS), tmp_path), tmp_path)

    cells = cells_of(tmp_path / "result.ipynb")
    (bar,) = bars(cells[2])
    assert re.search(r'<progress max="4" value="4".*4 of 4 blocks, 4,000 rows, \d+\.\d s$', bar)
    assert [bars(cell) for number, cell in enumerate(cells) if number != 2] == [[]] * len(CELLS)
    assert [output for cell in cells for output in cell["outputs"] if output["output_type"] == "stream"] == []
    page = "\n".join(shown_by(tmp_path / "result.ipynb"))
    for shown in (
        r"<b>sparkray session</b> is up<table>",
        r"<b>Dataset</b> of 4,000 rows in 4 blocks",
        r"<code>Actor\(Counter, \w+\)</code>",
        r"<code>ObjectRef\(\w+\)</code> is there",
    ):
        assert re.search(shown, page), f"{shown}: {page}"
