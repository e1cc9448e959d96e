"""What has to be the same on the driver and its executors, and what is said when it is not."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from importlib import metadata

import sparkray

# How many parts of the version have to agree, and what comes of it if they do not.
_COMPARED: Mapping[str, tuple[int, str]] = {
    "cloudpickle": (2, "functions may not be readable there"),
    "numpy": (1, "arrays may not be readable there"),
    "pyarrow": (1, "tables may not be readable there"),
}


def versions() -> dict[str, str]:
    """Of this process. A package that is not installed, or says nothing of itself, is left out."""
    found = {"Python": platform.python_version(), "sparkray": sparkray.__version__}
    for package in _COMPARED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def why_refused(here: Mapping[str, str], there: Mapping[str, str], address: str) -> str | None:
    """The start ends with this sentence; None: it goes on."""
    if here["sparkray"] != there.get("sparkray"):
        return (
            f"the driver has sparkray {here['sparkray']}, the executor at {address} has "
            f"{there.get('sparkray', 'another')}: install the same version on both"
        )
    if _first(here["Python"], 2) != _first(there.get("Python", ""), 2):
        return (
            f"the driver runs Python {here['Python']}, the executor at {address} runs {there.get('Python')}: set "
            "PYSPARK_PYTHON, before the SparkContext is made, to a Python of the driver's version"
        )
    return None


def why_doubtful(here: Mapping[str, str], there: Mapping[str, str], address: str) -> str | None:
    """A warning; None: all that matters is the same."""
    other = [
        f"{name} {there.get(name, 'not at all')} instead of {here[name]} ({what})"
        for name, (parts, what) in _COMPARED.items()
        if name in here and _first(here[name], parts) != _first(there.get(name, ""), parts)
    ]
    if not other:
        return None
    return f"the executor at {address} has {', '.join(other)}: install the driver's versions there"


def _first(version: str, parts: int) -> list[str]:
    return version.split(".")[:parts]
