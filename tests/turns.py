"""Which files of tests go to one process together, and in which order, where pytest-xdist runs several at once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

# A JVM takes seconds to start, and some more to get warm: each of these files need not have its own.
TOGETHER = {
    "tests/spark/test_dataframes.py": "Spark in one JVM",
    "tests/spark/test_dataset_sources.py": "Spark in one JVM",
    "tests/spark/test_doctor.py": "Spark in one JVM",
    "tests/spark/test_ray_context_local.py": "Spark in one JVM",
    "tests/spark/test_dataframes_on_executors.py": "Spark with executors",
    "tests/spark/test_kills.py": "Spark with executors",
    "tests/spark/test_ray_context.py": "Spark with executors",
}

# Whichever begins last, the others wait for it at the end. All else is short.
LONG = ("tests/spark/", "tests/simulation/", "tests/processes/test_keeper.py", "tests/compat/", "tests/cluster/")


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def in_order(files: list[str]) -> list[str]:
    """Those that take long, as they come, then those of many tests. A file is there once for each of its tests."""

    def key(file: str) -> tuple[int, int]:
        place = next((place for place, long in enumerate(LONG) if file.startswith(long)), len(LONG))
        return place, -tests[file] if place == len(LONG) else 0

    tests = Counter(files)
    return sorted(tests, key=key)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # in one of the processes, all of which find the same tests
        places = {file: place for place, file in enumerate(in_order([file_of(item.nodeid) for item in items]))}
        items.sort(key=lambda item: places[file_of(item.nodeid)])


@pytest.hookimpl(optionalhook=True)  # one need not have pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Turns(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = file_of(nodeid)
            return TOGETHER.get(file, file)

    config.option.loadscopereorder = False  # it would begin with the files of most tests, the quickest that we have
    return Turns(config, log)
