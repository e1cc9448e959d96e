"""docs/notebooks.md: its cells where driver, notebook and Spark are given, as on hosted services. This is none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from tests.kernels import RUNNER, cells_of, write_notebook
from tests.pages import python_of

from .conftest import SETTINGS, START_S, remove_work_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * START_S)]
PAGE = "docs/notebooks.md"
SUBMIT = Path(str(pyspark.__file__)).parent / "bin" / "spark-submit"
SETTINGS_HERE = SETTINGS | {"spark.log.level": "ERROR"}
# What a service's own start of a notebook leaves behind.
OUTPUT = """
import sys
class Output:
    def __init__(self, shown):
        self.write, self.flush = shown.write, shown.flush
        self.set_parent = shown.set_parent  # by which the kernel says which cell is running
sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
"""
# py4j as it is where users share a cluster: what Spark's own modules call goes through, here.
REFUSES = """
from py4j import java_gateway
from py4j.protocol import Py4JError
def refusing(allowed):
    def call(self, *words):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] == "sparkray":
            raise Py4JError(
                f"An error occurred while calling o1.{getattr(self, 'name', self)}. Trace:\\npy4j.security."
                f"Py4JSecurityException: Method public {getattr(self, 'name', self)}() is not whitelisted ({caller})"
            )
        return allowed(self, *words)
    return call
for kind in (java_gateway.JavaMember, java_gateway.JavaClass):
    kind.__call__ = refusing(kind.__call__)
"""
GIVEN = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
open("application", "w").write(spark.sparkContext.applicationId)
"""
CONNECTED = "from pyspark.sql import SparkSession\nspark = SparkSession.builder.remote('local[2]').getOrCreate()"
INTERRUPTED = """
import os, signal, threading, time
@ray.remote
def sleep():
    time.sleep(60)
kept = ray.put(7)
threading.Timer(1, lambda: os.killpg(os.getpgid(0), signal.SIGINT)).start()
try:
    ray.get([sleep.remote()])
except KeyboardInterrupt:
    print("interrupted,", ray.get(kept), sum(node["Alive"] for node in ray.nodes()), "nodes live")
"""


def printed(path: Path) -> list[str]:
    """What each cell has printed, the lines of Spark and of sparkray itself left out."""
    texts = ["".join("".join(output.get("text", "")) for output in cell["outputs"]) for cell in cells_of(path)]
    return [re.sub(r"^(sparkray: |\d\d/\d\d/\d\d ).*\n", "", text, flags=re.MULTILINE).strip() for text in texts]


def run(command: list[str], notebook: Path) -> list[str]:
    folder = notebook.parent
    done = subprocess.run(
        [*command, str(RUNNER), str(notebook), str(folder / "result.ipynb")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * START_S,
        check=False,
        env={
            **{name: value for name, value in os.environ.items() if name != "PYSPARK_GATEWAY_PORT"},
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "PYTHONWARNINGS": "ignore",
            "SPARK_LOCAL_IP": "127.0.0.1",
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
        },
    )
    if (folder / "application").exists():
        remove_work_folder((folder / "application").read_text())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return printed(folder / "result.ipynb")


@pytest.mark.parametrize(("master", "nodes"), [("local-cluster[2,1,1024]", 2), ("local[2]", 1)])
def test_cells_run_below_a_jvm_that_is_given_and_refuses_what_is_private(
    master: str, nodes: int, tmp_path: Path
) -> None:
    first, tasks, data, stop = python_of(PAGE)
    path = write_notebook(tmp_path, OUTPUT + GIVEN, REFUSES, first, tasks, INTERRUPTED, data, stop)
    settings = [word for setting in SETTINGS_HERE.items() for word in ("--conf", "=".join(setting))]

    said = run([str(SUBMIT), "--master", master, *settings], path)

    assert said[2:4] == [f"{nodes} nodes", "328350"]
    assert re.fullmatch(rf"interrupted, 7 {nodes if nodes == 1 else nodes + 1} nodes live", said[4])
    assert said[5:] == ["999000", "True"]


def test_cells_run_in_a_session_of_spark_connect(tmp_path: Path) -> None:
    pytest.importorskip("grpc", reason="Spark Connect needs sparkray[connect]")
    first, tasks, data, stop = python_of(PAGE)
    path = write_notebook(tmp_path, OUTPUT + CONNECTED, first, tasks, INTERRUPTED, data, stop)
    (tmp_path / "spark-defaults.conf").write_text("".join(f"{name} {value}\n" for name, value in SETTINGS_HERE.items()))

    said = run(["env", f"SPARK_CONF_DIR={tmp_path}", sys.executable], path)

    assert said[1:] == ["1 nodes", "328350", "interrupted, 7 2 nodes live", "999000", "True"]
