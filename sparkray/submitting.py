"""Running this process's script again, by spark-submit, with its driver on the cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkray.spark_session import active_context
from sparkray_core.run import processes

if TYPE_CHECKING:
    from pyspark import SparkContext

PYTHON_FILES = "PYTHON_FILES_OF_SPARKRAY"  # of a driver in a pod: what its executors are to have on their path, too


def script_to_submit(function: str, instead: str) -> str:
    """The path of this process's script.

    Args:
        function: whose task it is to run it again.
        instead: what to use where there is none.

    Raises:
        ValueError: this process runs none that could be run again, or has a SparkContext.
    """
    main: Any = sys.modules["__main__"]
    path: str | None = getattr(main, "__file__", None)
    if path is None or getattr(main, "__spec__", None) is not None or not os.path.isfile(path):
        raise ValueError(
            f"{function} runs this process's script again, on the cluster, and there is none (a notebook, a prompt, "
            f"python -m): put it into a file and run that, or use {instead}"
        )
    if active_context() is not None:
        raise ValueError("a SparkContext is active in this process: stop it first; the script makes another, there")
    return os.path.abspath(path)


def submit(prepare: Callable[[str], tuple[Sequence[str], Mapping[str, str]]]) -> int:
    """Run spark-submit in cluster mode until the application has ended; its exit code.

    Args:
        prepare: called with a folder for files that are there while it runs; returns its arguments, and what to put
            into its environment.
    """
    with tempfile.TemporaryDirectory(prefix="sparkray-submit-") as folder:
        words, environment = prepare(folder)
        me = os.getpid()
        return subprocess.Popen(
            spark_submit("--deploy-mode", "cluster", *words),
            env={**environment_of_submit(), **environment},
            preexec_fn=lambda: processes.die_with_parent(signal.SIGTERM, me),  # the application goes on without either
        ).wait()


def spark_submit(*words: str) -> list[str]:
    return [os.path.join(_home(), "bin", "spark-submit"), *words]


def environment_of_submit() -> dict[str, str]:
    """This process's, without what would tie spark-submit to a JVM of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK_")}
    return {**kept, "SPARK_HOME": _home()}


def settings_folder() -> str:
    """That spark-submit would take its settings from."""
    return os.environ.get("SPARK_CONF_DIR", os.path.join(_home(), "conf"))


def default_setting(name: str) -> str | None:
    """What that folder's spark-defaults.conf says of it."""
    with contextlib.suppress(OSError), open(os.path.join(settings_folder(), "spark-defaults.conf")) as file:
        for line in file:
            found, _, value = line.strip().replace("=", " ", 1).partition(" ")
            if found == name:
                return value.strip()
    return None


def _home() -> str:
    from pyspark.find_spark_home import _find_spark_home

    return str(_find_spark_home())


def context_in_cluster_mode(spark_log_level: str) -> SparkContext | None:
    """That of the application whose driver this process is, because spark-submit put it on the cluster."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return None
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized()  # the JVM that is there: a SparkConf made before knows nothing of it
    settings = SparkConf()
    in_pod = settings.get("spark.kubernetes.submitInDriver") == "true"  # its image runs it in client mode again
    if settings.get("spark.submit.deployMode", "client") != "cluster" and not in_pod:
        return None
    sc = SparkContext.getOrCreate()
    for file in filter(None, os.environ.pop(PYTHON_FILES, "").split(os.pathsep)):
        sc.addPyFile(file)
    sc.setLogLevel(spark_log_level.upper())
    return sc


def folder_of_jvm(settings: dict[str, str]) -> str:
    """A new folder that goes with Spark's JVM, however this process ends."""
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized(conf=SparkConf().setAll(list(settings.items())))
    jvm: Any = SparkContext._jvm
    temporary = jvm.java.lang.System.getProperty("java.io.tmpdir")
    return str(jvm.org.apache.spark.util.Utils.createTempDir(temporary, "sparkray").getAbsolutePath())
