"""What the arguments of `init_spark_on_yarn` mean: settings of Spark, the executors' Python, and the cluster itself."""

from __future__ import annotations

import contextlib
import os
import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkray.env_archives import NAME, Travelling, archive_url, file_url, own_python, python_in, travelling
from sparkray.sizing import memory_bytes
from sparkray.spark_session import SparkNotStarted, active_context

_REACH_LIMIT_S = 5.0  # for a connection to the ResourceManager; Hadoop itself tries for a quarter of an hour
_MANAGER_PORT = 8032  # Hadoop's default
ARCHIVES = "spark.yarn.dist.archives"
# Which environment was packed, for a second call to compare: the archive is another each time.
_PACKED = "spark.sparkray.environment"


@dataclass(frozen=True, slots=True)
class YarnJob:
    """What Spark is to be told, as far as it is known before anything is packed."""

    hadoop_conf: str
    user: str | None
    settings: Mapping[str, str]
    python: str  # of the executors
    environment: Travelling | None  # to be packed first
    archives: tuple[str, ...]  # further ones, as URLs
    python_files: tuple[str, ...]

    def archives_with(self, packed: str) -> Mapping[str, str]:
        """The setting, once the environment is packed."""
        return {ARCHIVES: ",".join((archive_url(packed), *self.archives))}


def yarn_job(
    hadoop_conf: str | None,
    conda_name: str | None,
    num_executors: int,
    executor_cores: int,
    executor_memory: str,
    driver_cores: int,
    driver_memory: str,
    extra_executor_memory_for_ray: str | None,
    extra_python_lib: str | None,
    penv_archive: str | None,
    additional_archive: str | None,
    spark_yarn_archive: str | None,
    jars: str | None,
    conf: Mapping[str, str] | None,
    py_files: str | None,
    python_location: str | None,
    hadoop_user_name: str | None,
) -> YarnJob:
    """What the arguments mean. Nothing is started or packed; files and folders are looked for.

    Raises:
        ValueError: an argument out of range, or a file that is not there.
    """
    for name, value in (
        ("num_executors", num_executors),
        ("executor_cores", executor_cores),
        ("driver_cores", driver_cores),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number above 0, not {value!r}")
    for name, size in (
        ("executor_memory", executor_memory),
        ("driver_memory", driver_memory),
        ("extra_executor_memory_for_ray", extra_executor_memory_for_ray),
    ):
        memory_bytes(size, name)
    if penv_archive is not None and python_location is not None:
        raise ValueError("penv_archive brings its own Python: leave python_location out")
    environment = travelling(conda_name) if conda_name is not None and penv_archive is None else None
    if environment is not None and python_location is not None:
        raise ValueError("conda_name brings its own Python: leave python_location out")
    archives = tuple(archive_url(name, None) for name in _split(additional_archive))
    settings = {
        "spark.master": "yarn",
        "spark.executor.instances": str(num_executors),
        "spark.dynamicAllocation.enabled": "false",  # a cluster's own defaults often have it on
        "spark.executor.cores": str(executor_cores),
        "spark.executor.memory": executor_memory,
        "spark.driver.cores": str(driver_cores),
        "spark.driver.memory": driver_memory,
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
    }
    if extra_executor_memory_for_ray is not None:
        settings["spark.executor.memoryOverhead"] = extra_executor_memory_for_ray
    if spark_yarn_archive is not None:
        settings["spark.yarn.archive"] = file_url(spark_yarn_archive)
    if jars is not None:
        settings["spark.jars"] = ",".join(map(file_url, _split(jars)))
    python = python_location or own_python()
    if penv_archive is not None:
        archives = (archive_url(penv_archive), *archives)
        python = python_in(archives[0])
    if environment is not None:
        settings[_PACKED] = str(environment)
        python = f"./{NAME}/bin/python"
    elif archives:
        settings[ARCHIVES] = ",".join(archives)
    settings["spark.executorEnv.PYSPARK_PYTHON"] = python
    settings |= {str(name): str(value) for name, value in (conf or {}).items()}
    return YarnJob(
        hadoop_conf=_folder_with_conf(hadoop_conf),
        user=hadoop_user_name,
        settings=settings,
        python=python,
        environment=environment,
        archives=archives,
        python_files=(*_split(extra_python_lib), *_split(py_files)),
    )


def tell_hadoop(job: YarnJob) -> None:
    """By the environment, of which a JVM takes a copy when it starts.

    Raises:
        SparkNotStarted: nobody listens at the ResourceManager's address, or a JVM is up that knows of another cluster.
    """
    from pyspark import SparkContext

    wanted = {"HADOOP_CONF_DIR": job.hadoop_conf} | ({"HADOOP_USER_NAME": job.user} if job.user else {})
    jvm: Any = SparkContext._jvm
    for name, value in wanted.items():
        found = None if jvm is None else jvm.java.lang.System.getenv(name)
        if jvm is not None and found != value:
            raise SparkNotStarted(
                f"this process has a JVM of Spark already, in which {name} is {found or 'not set'}, not {value}. "
                "It cannot be changed there: begin with init_spark_on_yarn in a new process, or set it before"
            )
    os.environ |= wanted
    if active_context() is None:
        _require_manager(Path(job.hadoop_conf, "yarn-site.xml"))


def _require_manager(site: Path) -> None:
    """
    Raises:
        SparkNotStarted: nobody listens there. Where there are several, or what is said is not plain, nobody looks.
    """
    said: dict[str, str] = {}
    with contextlib.suppress(ElementTree.ParseError):
        for found in ElementTree.parse(site).getroot().iter("property"):
            said[(found.findtext("name") or "").strip()] = (found.findtext("value") or "").strip()
    host = said.get("yarn.resourcemanager.hostname", "")
    address = said.get("yarn.resourcemanager.address") or (f"{host}:{_MANAGER_PORT}" if host else "")
    host, _, port = address.rpartition(":")
    if said.get("yarn.resourcemanager.ha.enabled", "").lower() == "true" or "$" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_LIMIT_S).close()
    except OSError as error:
        raise SparkNotStarted(
            f"nobody listens at {address}, the ResourceManager's address in {site} ({error}): is YARN up, and can this "
            "host reach it?"
        ) from None


def _split(names: str | None) -> Sequence[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _folder_with_conf(given: str | None) -> str:
    """
    Raises:
        ValueError: none was given, or it is none.
    """
    found = given or os.environ.get("HADOOP_CONF_DIR") or os.environ.get("YARN_CONF_DIR")
    if not found:
        raise ValueError(
            "hadoop_conf must name the folder with the cluster's yarn-site.xml and core-site.xml, or HADOOP_CONF_DIR "
            "must be set to it"
        )
    if not Path(found, "yarn-site.xml").is_file():
        raise ValueError(f"there is no yarn-site.xml in {found}: hadoop_conf must name the folder with the cluster's")
    return os.path.abspath(found)
