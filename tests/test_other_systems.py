"""Tests once more: the core's on every other Python that is found here, and with Linux's own means switched off; those
of Spark on the newest PySpark 3.5."""

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
PYTHONS_OF_SPARK_3 = ("3.11", "3.10")
UNRAISABLE = "pytest.PytestUnraisableExceptionWarning"
CORE = ["tests/model", "tests/wire", "tests/store", "tests/processes", "tests/api", "tests/util"]
# What goes on differently without epoll, memfd, pidfd, prctl, /proc and fork: sockets, processes, the store.
PORTABLE = [
    "tests/store",
    "tests/api/test_tasks.py",
    "tests/api/test_actors.py",
    "tests/api/test_actor_kinds.py",
    "tests/api/test_cancel.py",
    "tests/api/test_objects.py",
    "tests/api/test_kills.py",
    "tests/compat/test_semantics_waiting.py",
]
# Of what pyproject.toml lists, not PySpark (400 MB, and the core does without), nor what judges code.
NEEDED = re.compile(
    r"(cloudpickle|cryptography|numpy|pandas|psutil|pyarrow|pyzmq|rich|setproctitle|threadpoolctl|tomli|typer"
    r"|hypothesis|prometheus_client|pytest|pytest-timeout|pytest-xdist)[<>=]"
)
FOR_TESTS = ["joblib", "scikit-learn>=1.4"]
FOR_YARN = ["conda-pack>=0.7", "venv-pack2>=0.9"]
CLIENT_MODE = "not cluster and not in_its_container"  # of the tests of YARN
FOR_NOTEBOOKS = ["ipykernel>=6.29", "matplotlib>=3.8", "nbclient>=0.10", "nbformat>=5.10", "vega_datasets>=0.9"]
AT_ONCE = ["--numprocesses=3", "--dist=loadfile"]  # as `make test` does; it runs this file alone


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


def _dependencies() -> list[str]:
    """Ours, those for development included."""
    return re.findall(r'^    "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def _virtual_environment(interpreter: str, folder: Path) -> Path:
    """Its Python."""
    subprocess.run([interpreter, "-m", "venv", str(folder)], check=True, timeout=120)
    return folder / "bin" / "python"


def _install(python: Path, what: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install {', '.join(what)}: {done.stderr.strip()[-300:]}")


def _run_tests(
    python: str | Path,
    what: list[str],
    environment: dict[str, str],
    limit: float,
    which: str = "not slow and not chaos and not spark",
) -> None:
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, *what]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def _environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "core")])
    return {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **more}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_core_runs_on_the_other_pythons(version: str, tmp_path: Path) -> None:
    if version == ".".join(map(str, sys.version_info[:2])):
        pytest.skip("this is the Python that runs all the other tests")
    interpreter = _interpreter(version)
    if interpreter is None:
        pytest.skip(f"there is no Python {version} with venv, on PATH or in pyenv")
    needed = [line for line in _dependencies() if NEEDED.match(line)]
    python = _virtual_environment(interpreter, tmp_path)
    _install(python, [*needed, *FOR_TESTS])
    _run_tests(python, [*CORE, *AT_ONCE], _environment(), 700)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_without_what_only_linux_has() -> None:
    _run_tests(sys.executable, [*PORTABLE, *AT_ONCE], _environment(SPARKRAY_PORTABLE="1"), 590)


@pytest.fixture(scope="module")
def spark_3_5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the newest PySpark 3.5."""
    interpreter = next(filter(None, map(_interpreter, PYTHONS_OF_SPARK_3)), None)
    if interpreter is None:
        pytest.skip(f"there is none of Python {', '.join(PYTHONS_OF_SPARK_3)} with venv, on PATH or in pyenv")
    python = _virtual_environment(interpreter, tmp_path_factory.mktemp("spark-3.5"))
    needed = [line for line in _dependencies() if NEEDED.match(line)]
    _install(python, ["pyspark==3.5.*", *needed, *FOR_TESTS, *FOR_NOTEBOOKS, *FOR_YARN])
    return python


def _run_on_spark_3_5(python: Path, what: list[str], limit: float, which: str) -> None:
    own = {"PYSPARK_PYTHON": str(python), "PYSPARK_DRIVER_PYTHON": str(python)}
    # Of its own make are sockets that it does not close, and what it imports of distutils.
    leniently = [f"-W=ignore::{name}" for name in ("ResourceWarning", "DeprecationWarning", UNRAISABLE)]
    _run_tests(python, [*what, *leniently], _environment(**own), limit, which)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_spark_s_tests_pass_on_the_newest_pyspark_3_5(spark_3_5: Path) -> None:
    _run_on_spark_3_5(spark_3_5, ["tests/spark"], 1700, "not slow and not chaos")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_yarn_s_tests_of_client_mode_pass_on_the_newest_pyspark_3_5(spark_3_5: Path) -> None:
    _run_on_spark_3_5(spark_3_5, ["tests/spark/test_yarn.py", f"-k={CLIENT_MODE}"], 1500, "slow")
