"""Sessions that `sparkray start` started, in a folder of the test's own, and programs that join them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import sparkray
from sparkray.joining import ADDRESS_VARIABLES, KEY_FILE_VARIABLE, KEY_VARIABLE

LIMIT_S = 90.0  # for a command, on a busy machine

Command = Callable[..., subprocess.CompletedProcess[str]]


def run(*words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command of ours as a process of its own."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def sparkray_command(*words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return run("-m", "sparkray", *words, environment=environment)


def program(source: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """Run a driver to its end: what it printed, by lines. It fails the test when it fails."""
    done = run("-c", textwrap.dedent(source), environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def base_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No session but this test's is found, and nothing in the environment names one. All is stopped at the end."""
    for name in (*ADDRESS_VARIABLES, KEY_VARIABLE, KEY_FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="sprk-", dir="/tmp") as folder:
        monkeypatch.setenv("SPARKRAY_BASE_FOLDER", os.path.join(folder, "s"))
        yield Path(folder, "s")
        sparkray.shutdown()
        sparkray_command("stop", "--force")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of what runs as if on another host: it sees none of the folders of this one."""
    with tempfile.TemporaryDirectory(prefix="sprk-", dir="/tmp") as folder:
        yield {"SPARKRAY_BASE_FOLDER": os.path.join(folder, "s")}


@pytest.fixture
def head(base_folder: Path) -> str:
    """host:port of a session of two CPUs."""
    done = sparkray_command("start", "--head", "--num-cpus=2", "--port=0", "--object-store-memory=268435456")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "listens at" in line]
    return line.rpartition(" ")[2].rstrip(".")
