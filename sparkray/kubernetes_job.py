"""What the arguments of `init_spark_on_k8s` mean: settings of Spark, the executors' Python, and the cluster itself."""

from __future__ import annotations

import os
import re
import socket
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sparkray.cluster_job import ExecutorsPython, executors_python, number_of_executors, sizes, split, user_settings
from sparkray.env_archives import file_url
from sparkray.sizing import is_loopback
from sparkray.spark_session import SparkNotStarted

_MASTER = re.compile(r"(?:k8s://)?(?:https?://)?(?P<host>\[[^]]+\]|[^/:\s]+)(?::(?P<port>\d+))?/?")
_REACH_LIMIT_S = 5.0  # for a connection to the API server; Spark itself tries for minutes
_ELSEWHERE = ("203.0.113.1", 9)  # of no network (RFC 5737): the way to it is the default route. Nothing is sent
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # of the pod that this process is in
SHARED_MEMORY = "/dev/shm"
IMAGE_PYTHON = "python3"  # where nothing is said of it; the image's own environment may say more
_VOLUME = "spark.kubernetes.{role}.volumes.emptyDir.sparkray-shm."


@dataclass(frozen=True, slots=True)
class KubernetesJob:
    """What Spark is to be told, as far as it is known before anything is packed."""

    api: tuple[str, int]  # the server's host and port
    settings: Mapping[str, str]
    python: ExecutorsPython
    python_files: tuple[str, ...]


def kubernetes_job(
    master: str,
    container_image: str,
    conda_name: str | None,
    num_executors: int,
    executor_cores: int,
    executor_memory: str,
    driver_memory: str,
    driver_cores: int,
    extra_executor_memory_for_ray: str | None,
    extra_python_lib: str | None,
    penv_archive: str | None,
    jars: str | None,
    conf: Mapping[str, str] | None,
    python_location: str | None,
) -> KubernetesJob:
    """What the arguments mean. Nothing is started or packed; files and folders are looked for.

    Raises:
        ValueError: an argument out of range, or a file that is not there.
    """
    found = _MASTER.fullmatch(master)
    if found is None:
        raise ValueError(f'master must be the API server\'s address, like "k8s://https://host:6443", not {master!r}')
    if not container_image:
        raise ValueError("container_image must name an image with Spark and Python (examples/kubernetes has one)")
    own = user_settings(conf)
    settings = {
        "spark.master": "k8s://" + master.removeprefix("k8s://"),
        "spark.kubernetes.container.image": container_image,
        **number_of_executors(num_executors),
        **sizes(
            num_executors,
            executor_cores,
            executor_memory,
            driver_cores,
            driver_memory,
            extra_executor_memory_for_ray,
        ),
        **shared_memory("executor", own),
    }
    if jars is not None:
        settings["spark.jars"] = ",".join(map(file_url, split(jars)))
    of_image = own.get("spark.pyspark.python") or os.environ.get("PYSPARK_PYTHON") or IMAGE_PYTHON
    python = executors_python(conda_name, penv_archive, python_location, None, of_image, "spark.archives")
    settings |= python.settings()
    if python.path != IMAGE_PYTHON:
        settings["spark.executorEnv.PYSPARK_PYTHON"] = python.path
    scheme = urllib.parse.urlsplit(master.removeprefix("k8s://")).scheme
    port = int(found["port"] or (80 if scheme == "http" else 443))
    return KubernetesJob(
        api=(found["host"].strip("[]"), port),
        settings={**settings, **own},
        python=python,
        python_files=tuple(split(extra_python_lib)),
    )


def shared_memory(role: str, own: Mapping[str, str]) -> dict[str, str]:
    """A memory volume over /dev/shm, 64 MB in a pod otherwise, which libraries share large arrays by. It takes of the
    pod's memory what is written to it. Sparkray's own store needs none.

    Args:
        role: "executor" or "driver".
        own: the user's settings; where they do something of the kind, it is left to them.
    """
    mounted = (value for name, value in own.items() if name.startswith(f"spark.kubernetes.{role}.volumes."))
    if SHARED_MEMORY in mounted or f"spark.kubernetes.{role}.podTemplateFile" in own:
        return {}
    name = _VOLUME.format(role=role)
    return {f"{name}mount.path": SHARED_MEMORY, f"{name}options.medium": "Memory"}


def require_api_server(api: tuple[str, int]) -> None:
    """
    Raises:
        SparkNotStarted: nobody listens there.
    """
    try:
        socket.create_connection(api, _REACH_LIMIT_S).close()
    except OSError as error:
        raise SparkNotStarted(
            f"nobody listens at {api[0]}:{api[1]}, the address of Kubernetes' API server in master ({error}): is the "
            "cluster up, and can this host reach it? `kubectl cluster-info` shows the address"
        ) from None


def driver_settings(api: tuple[str, int]) -> dict[str, str]:
    """Where the executors' pods find this process, and what it is itself, if it is a pod.

    Raises:
        SparkNotStarted: this host has no address but for itself.
    """
    host = own_address(api)
    settings = {"spark.driver.host": host, "spark.driver.bindAddress": host}
    with suppress(OSError):
        settings["spark.kubernetes.namespace"] = (_ACCOUNT / "namespace").read_text().strip()
        settings["spark.kubernetes.driver.pod.name"] = os.environ["HOSTNAME"]  # executors go when this pod is deleted
    return settings


def own_address(api: tuple[str, int]) -> str:
    """Of this host, on the way to the API server; where that is this host, on the way to anywhere.

    Raises:
        SparkNotStarted: there is none but for itself.
    """
    for place in (api, _ELSEWHERE):
        with suppress(OSError):
            family, kind, *_, address = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as asked:
                asked.connect(address)  # nothing is sent
                found = str(asked.getsockname()[0])
            if not is_loopback(found):
                return found
    raise SparkNotStarted(
        "this host has no address by which pods could reach it: give one in conf, as spark.driver.host, or run the "
        "driver in a pod"
    )
