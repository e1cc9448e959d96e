"""The core tests once more: on every other Python that is found here, and with Linux's own means switched off."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
CORE = ["tests/model", "tests/wire", "tests/store", "tests/processes", "tests/api", "tests/util"]
# What goes on differently without epoll, memfd, pidfd, prctl, /proc and fork: sockets, processes, the store.
PORTABLE = [
    "tests/store",
    "tests/api/test_tasks.py",
    "tests/api/test_actors.py",
    "tests/api/test_actor_kinds.py",
    "tests/api/test_cancel.py",
    "tests/api/test_objects.py",
    "tests/compat/test_semantics_waiting.py",
    # This one counts on a worker that starts quickly, as only a forked one does.
    "--deselect=tests/api/test_actor_kinds.py::test_concurrency_groups_have_limits_of_their_own",
]
# Not PySpark (400 MB, and the core does without), nor what judges code.
NEEDED = re.compile(
    r"(cloudpickle|numpy|pandas|psutil|pyarrow|pyzmq|setproctitle|typer|rich|prometheus|threadpoolctl)\b"
)
FOR_TESTS = ["pytest>=8.3", "pytest-timeout>=2.3", "hypothesis>=6.100", "joblib", "scikit-learn>=1.4"]


def _interpreter(version: str) -> str | None:
    """Of that minor version: on PATH, else of pyenv, and one that can make environments."""
    found = shutil.which(f"python{version}")
    pyenv = sorted(
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob(f"{version}.*/bin/python")
    )
    for candidate in ([found] if found else []) + [str(path) for path in reversed(pyenv)]:
        script = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != {tuple(map(int, version.split('.')))})"
        if subprocess.run([candidate, "-c", script], capture_output=True, timeout=60).returncode == 0:
            return candidate
    return None


def _run_tests(python: str | Path, what: list[str], environment: dict[str, str], limit: float) -> None:
    command = [str(python), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-m", "not slow and not chaos and not spark", *what]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def _environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "core")])
    return {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **more}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_core_runs_on_the_other_pythons(version: str, tmp_path: Path) -> None:
    if version == ".".join(map(str, sys.version_info[:2])):
        pytest.skip("this is the Python that runs all the other tests")
    interpreter = _interpreter(version)
    if interpreter is None:
        pytest.skip(f"there is no Python {version} with venv, on PATH or in pyenv")
    text = (ROOT / "pyproject.toml").read_text()
    needed = [line for line in re.findall(r'^    "([^"]+)"', text, re.MULTILINE) if NEEDED.match(line)]
    subprocess.run([interpreter, "-m", "venv", str(tmp_path)], check=True, timeout=120)
    python = tmp_path / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *needed, *FOR_TESTS]
    done = subprocess.run([str(word) for word in install], capture_output=True, text=True, timeout=400)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install what Python {version} needs: {done.stderr.strip()[-300:]}")
    _run_tests(python, CORE, _environment(), 700)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_without_what_only_linux_has() -> None:
    _run_tests(sys.executable, PORTABLE, _environment(SPARKRAY_PORTABLE="1"), 590)
