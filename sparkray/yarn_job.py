"""What the arguments of `init_spark_on_yarn` mean: settings of Spark, the executors' Python, and the cluster itself."""

from __future__ import annotations

import contextlib
import os
import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkray.cluster_job import ExecutorsPython, executors_python, number_of_executors, sizes, split, user_settings
from sparkray.env_archives import file_url, own_python
from sparkray.spark_session import SparkNotStarted, active_context

_REACH_LIMIT_S = 5.0  # for a connection to the ResourceManager; Hadoop itself tries for a quarter of an hour
_MANAGER_PORT = 8032  # Hadoop's default
ARCHIVES = "spark.yarn.dist.archives"


@dataclass(frozen=True, slots=True)
class YarnJob:
    """What Spark is to be told, as far as it is known before anything is packed."""

    hadoop_conf: str
    user: str | None
    settings: Mapping[str, str]
    python: ExecutorsPython
    python_files: tuple[str, ...]


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
    settings = {
        "spark.master": "yarn",
        **number_of_executors(num_executors),
        **sizes(
            num_executors,
            executor_cores,
            executor_memory,
            driver_cores,
            driver_memory,
            extra_executor_memory_for_ray,
        ),
    }
    if spark_yarn_archive is not None:
        settings["spark.yarn.archive"] = file_url(spark_yarn_archive)
    if jars is not None:
        settings["spark.jars"] = ",".join(map(file_url, split(jars)))
    python = executors_python(conda_name, penv_archive, python_location, additional_archive, own_python(), ARCHIVES)
    settings |= python.settings()
    settings["spark.executorEnv.PYSPARK_PYTHON"] = python.path
    settings |= user_settings(conf)
    return YarnJob(
        hadoop_conf=_folder_with_conf(hadoop_conf),
        user=hadoop_user_name,
        settings=settings,
        python=python,
        python_files=(*split(extra_python_lib), *split(py_files)),
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
