"""Making a SparkContext the way BigDL does: `init_spark_on_local`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparkray_core.errors import RaySystemError

if TYPE_CHECKING:
    from pyspark import SparkContext

_LOG_LEVELS = ("ALL", "TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "OFF")  # Spark's
_JAVA_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


class SparkNotStarted(RaySystemError):
    """There is no SparkContext; the sentence says what to install or set."""


def init_spark_on_local(
    cores: int | str = 2,
    conf: Mapping[str, str] | None = None,
    python_location: str | None = None,
    spark_log_level: str = "WARN",
    redirect_spark_log: bool = True,
) -> SparkContext:
    """Start Spark in local mode, or return the SparkContext that is there, if it is the same.

    Args:
        cores: slots, and with them the CPUs of sparkray's node; "*" for those of the machine.
        conf: further settings of Spark.
        python_location: the interpreter of Spark's Python workers; this process's own, if not given.
        spark_log_level: "ALL", "DEBUG", "INFO", "WARN", "ERROR", "FATAL" or "OFF".
        redirect_spark_log: obsolete.

    Raises:
        SparkNotStarted: Java is missing or too old, or Spark refused a setting.
        ValueError: `cores` is neither, or another SparkContext is active in this process.
    """
    warn_of_obsolete(redirect_spark_log)
    if cores != "*" and (isinstance(cores, bool) or not isinstance(cores, int) or cores < 1):
        raise ValueError(f'cores must be a whole number above 0, or "*", not {cores!r}')
    settings = {str(name): str(value) for name, value in (conf or {}).items()}
    settings["spark.master"] = f"local[{cores}]"
    return spark_context(settings, spark_log_level, python_location or sys.executable)


def warn_of_obsolete(redirect_spark_log: bool) -> None:
    if not redirect_spark_log:
        warnings.warn(
            "redirect_spark_log does nothing any more: Spark logs to stderr, as spark_log_level says",
            DeprecationWarning,
            stacklevel=3,
        )


def spark_context(
    settings: Mapping[str, str],
    log_level: str,
    python: str,
    python_files: Sequence[str] = (),
    secrets: Mapping[str, str] | None = None,
    once: Mapping[str, str] | None = None,
) -> SparkContext:
    """A new one with these settings, or the one that is there, if it has them.

    Args:
        python: the interpreter of Spark's Python workers.
        python_files: for their path.
        secrets: further settings, which must not stand on the JVM's command line for everybody to see.
        once: further settings, of a new one only: they are not compared with those of one that is there.

    Raises:
        SparkNotStarted: Java is missing or too old, or Spark refused a setting.
        ValueError: another SparkContext is active in this process, or a file is not there.
    """
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkException

    if log_level.upper() not in _LOG_LEVELS:
        raise ValueError(f"spark_log_level must be one of {', '.join(_LOG_LEVELS)}, not {log_level!r}")
    for file in python_files:
        if "://" not in file and not os.path.exists(file):
            raise ValueError(f"extra_python_lib names {file}, which is not there")
    active = active_context()
    if active is not None:
        found = dict(active.getConf().getAll())
        other = {name: found.get(name) for name, value in settings.items() if not _same(name, found.get(name), value)}
        if other:
            raise ValueError(
                f"a SparkContext is active in this process, with other settings ({_list(other)} instead of "
                f"{_list({name: settings[name] for name in other})}): stop it first"
            )
        sc = active
    else:
        require_java()
        before = os.environ.get("PYSPARK_PYTHON")
        os.environ["PYSPARK_PYTHON"] = python
        conf = SparkConf().setAll([("spark.app.name", "sparkray"), *settings.items(), *(once or {}).items()])
        try:
            if secrets:
                SparkContext._ensure_initialized(conf=conf)  # starts the JVM; settings after that go by its socket
                conf.setAll(list(secrets.items()))
            sc = SparkContext(conf=conf)
        except (PySparkException, Py4JError) as error:
            raise SparkNotStarted(f"Spark did not start: {_first_words(str(error))}{_java_hint()}") from error
        finally:
            if shutil.which(python) is None:  # it is there for executors only
                _restore("PYSPARK_PYTHON", before)
        sc.setLogLevel(log_level.upper())
    for file in python_files:
        sc.addPyFile(file)
    return sc


def active_context() -> SparkContext | None:
    """The one of this process, if it goes on. One that has ended in its JVM is put away, to make room for another."""
    from pyspark import SparkContext

    active = SparkContext._active_spark_context
    if active is not None and has_ended(active):
        active.stop()
        return None
    return active


def has_ended(sc: SparkContext) -> bool:
    """It was stopped, or ended by itself in its JVM (whoever manages the cluster has killed it), or that is gone."""
    from py4j.protocol import Py4JError

    if sc._jsc is None:
        return True
    try:
        # Refused by one that has ended. Not isStopped(): some services let nobody call what PySpark itself does not.
        return sc.defaultParallelism < 0
    except (Py4JError, OSError, AttributeError):  # the last: another thread stops it
        return True


def _restore(name: str, before: str | None) -> None:
    if before is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = before


def _same(name: str, found: str | None, wanted: str) -> bool:
    """Whether it is set so. (Spark 4 puts Java's own options in front of those that were asked for.)"""
    return found == wanted or (name.endswith("extraJavaOptions") and (found or "").endswith(f" {wanted}"))


def _first_words(error: str) -> str:
    """Of a stack trace of the JVM: what was wrong, without where."""
    return "\n".join(line for line in error.splitlines() if not line.startswith("\tat "))[:2000]


def _list(settings: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _java() -> str | None:
    """The one that Spark would take."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=os.path.join(home, "bin")) if home else shutil.which("java")


def require_java() -> None:
    """
    Raises:
        SparkNotStarted: there is no Java where Spark looks for it.
    """
    if _java() is None:
        where = f"JAVA_HOME is {os.environ['JAVA_HOME']}" if os.environ.get("JAVA_HOME") else "it is not on PATH"
        raise SparkNotStarted(
            f"Spark needs Java (17 or newer for Spark 4), and there is none: {where}. Install one (Debian, Ubuntu: apt "
            "install openjdk-17-jre-headless; macOS: brew install openjdk@17), and set JAVA_HOME to it"
        )


def _java_hint() -> str:
    """What to say of Java when Spark did not start: an old one is the usual reason."""
    java = _java()
    assert java is not None
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=10, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return f". {java} does not run"
    version = _JAVA_VERSION.search(said)
    if version is not None and int(version.group(1)) < 17:
        return f". {java} is Java {version.group(1)}, and Spark 4 needs 17 or newer"
    return ""
