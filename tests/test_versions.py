"""Versions of driver and executor: what ends a start, what is only told."""

from __future__ import annotations

import platform
from typing import Any

import cloudpickle
import pyarrow as pa
import pytest

import sparkray
from sparkray.versions import versions, why_doubtful, why_refused

HERE = {"Python": "3.11.7", "sparkray": "1.2", "cloudpickle": "3.1.2", "numpy": "2.4.1", "pyarrow": "26.0.0"}


def test_a_process_knows_its_versions() -> None:
    found = versions()

    assert found["Python"] == platform.python_version()
    assert found["sparkray"] == sparkray.__version__
    assert (found["cloudpickle"], found["pyarrow"]) == (cloudpickle.__version__, pa.__version__)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({}, None),
        ({"Python": "3.11.0"}, None),
        ({"Python": "3.12.1"}, "the driver runs Python 3.11.7, the executor at h:1 runs 3.12.1: set PYSPARK_PYTHON"),
        ({"sparkray": "1.3"}, "the driver has sparkray 1.2, the executor at h:1 has 1.3: install the same version"),
        ({"pyarrow": "1.0"}, None),
    ],
)
def test_another_python_or_sparkray_ends_the_start(there: dict[str, Any], says: str | None) -> None:
    found = why_refused(HERE, {**HERE, **there}, "h:1")

    assert found is None if says is None else found is not None and found.startswith(says)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({}, None),
        ({"cloudpickle": "3.1.0", "numpy": "2.0.0", "pyarrow": "26.1.0"}, None),
        ({"cloudpickle": "2.2.1"}, "cloudpickle 2.2.1 instead of 3.1.2 (functions may not be readable there)"),
        ({"numpy": "1.26.4", "pyarrow": "15.0.0"}, "numpy 1.26.4 instead of 2.4.1 (arrays may"),
        ({"pyarrow": "15.0.0"}, "pyarrow 15.0.0 instead of 26.0.0 (tables may not be readable there): install the"),
    ],
)
def test_other_packages_are_told_in_one_sentence(there: dict[str, Any], says: str | None) -> None:
    found = why_doubtful(HERE, {**HERE, **there}, "h:1")

    if says is None:
        assert found is None
    else:
        assert found is not None
        assert f"the executor at h:1 has {says}" in found


def test_a_package_that_is_missing_there_is_told() -> None:
    there = {name: version for name, version in HERE.items() if name != "pyarrow"}

    assert "pyarrow not at all instead of 26.0.0" in str(why_doubtful(HERE, there, "h:1"))
