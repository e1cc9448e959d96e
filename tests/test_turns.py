"""In which order files of tests are given out, and that the lists of them name what there is."""

from __future__ import annotations

from pathlib import Path

from tests.turns import LONG, TOGETHER, in_order

ROOT = Path(__file__).parents[1]


def test_files_that_take_long_begin_and_then_come_those_of_many_tests() -> None:
    tests = ["tests/api/test_a.py", "tests/model/test_b.py", "tests/model/test_b.py", "tests/spark/test_z.py"]
    tests += ["tests/spark/test_y.py"] * 2 + ["tests/simulation/test_c.py"]

    assert in_order(tests) == [
        "tests/spark/test_z.py",
        "tests/spark/test_y.py",
        "tests/simulation/test_c.py",
        "tests/model/test_b.py",
        "tests/api/test_a.py",
    ]


def test_what_is_named_is_there() -> None:
    assert [name for name in (*TOGETHER, *LONG) if not (ROOT / name).exists()] == []
