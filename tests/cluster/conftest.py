"""Sessions that `sparkray start` started, in a folder of the test's own, and programs that join them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

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


@contextlib.contextmanager
def _own_base_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in (*ADDRESS_VARIABLES, KEY_VARIABLE, KEY_FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="sprk-", dir="/tmp") as folder:
        monkeypatch.setenv("SPARKRAY_BASE_FOLDER", os.path.join(folder, "s"))
        yield Path(folder, "s")
        sparkray.shutdown()
        sparkray_command("stop", "--force")


@pytest.fixture
def base_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No session but this test's is found, and nothing in the environment names one. All is stopped at the end."""
    with _own_base_folder(monkeypatch) as folder:
        yield folder


@pytest.fixture(scope="module")
def module_base_folder() -> Iterator[Path]:
    """`base_folder` for all tests of a module."""
    with pytest.MonkeyPatch.context() as monkeypatch, _own_base_folder(monkeypatch) as folder:
        yield folder


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait for a condition, with a limit; what `what` returns last is in the failure."""

    def wait(condition: Callable[[], object], what: Callable[[], object], limit: float = 20.0) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < deadline, f"not so within {limit:g} s; last seen: {what()!r}"
            time.sleep(0.05)

    return wait


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of what runs as if on another host: it sees none of the folders of this one."""
    with tempfile.TemporaryDirectory(prefix="sprk-", dir="/tmp") as folder:
        yield {"SPARKRAY_BASE_FOLDER": os.path.join(folder, "s")}


def start_head() -> str:
    """host:port of a session of two CPUs."""
    done = sparkray_command("start", "--head", "--num-cpus=2", "--port=0", "--object-store-memory=268435456")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "listens at" in line]
    return line.rpartition(" ")[2].rstrip(".")


@pytest.fixture
def head(base_folder: Path) -> str:
    return start_head()


_LOOP = """
import json, sys
import sparkray as ray
scope = {"ray": ray}
for line in sys.stdin:
    try:
        exec(json.loads(line), scope)
        said = {"value": scope.pop("result", None)}
    except BaseException as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print("\\0" + json.dumps(said), flush=True)
"""


class Driver:
    """Another process that does what it is told, line by line."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        script = folder / "driver.py"
        script.write_text(_LOOP)
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )

    def do(self, source: str) -> Any:
        """Run the lines there. What they left in `result`, or an AssertionError with what they raised."""
        answer = self.attempt(source)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def attempt(self, source: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(textwrap.dedent(source)) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("\0"):
                answer: dict[str, Any] = json.loads(line[1:])
                return answer
        raise AssertionError("the driver ended")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    made: list[Driver] = []

    def make(environment: dict[str, str] | None = None) -> Driver:
        folder = tmp_path / f"driver{len(made)}"
        folder.mkdir()
        made.append(Driver(folder, environment))
        return made[-1]

    yield make
    for driver in made:
        driver.end()
