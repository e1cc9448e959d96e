"""Spark on Kubernetes: `init_spark_on_k8s`, with this process as the driver, and `init_spark_on_k8s_cluster`.

Both take BigDL's arguments. The executors are pods of an image that has Spark and Python; an environment can travel to
them as an archive. sparkray itself is sent where the image lacks it.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparkray.cluster_job import user_settings
from sparkray.kubernetes_job import (
    IMAGE_PYTHON,
    KubernetesJob,
    driver_settings,
    kubernetes_job,
    require_api_server,
    shared_memory,
)
from sparkray.kubernetes_program import folder_with_program
from sparkray.spark_session import active_context, require_java, spark_context, warn_of_obsolete
from sparkray.submitting import (
    context_in_cluster_mode,
    default_setting,
    environment_of_submit,
    folder_of_jvm,
    script_to_submit,
    settings_folder,
    spark_submit,
    submit,
)

if TYPE_CHECKING:
    from pyspark import SparkContext

_STATUS_LIMIT_S = 60.0  # for spark-submit to say how a pod has ended: a JVM's start and a question


def init_spark_on_k8s(
    master: str,
    container_image: str,
    conda_name: str | None,
    num_executors: int,
    executor_cores: int,
    executor_memory: str = "2g",
    driver_memory: str = "2g",
    driver_cores: int = 4,
    extra_executor_memory_for_ray: str | None = None,
    extra_python_lib: str | None = None,
    penv_archive: str | None = None,
    spark_log_level: str = "WARN",
    redirect_spark_log: bool = True,
    jars: str | None = None,
    conf: Mapping[str, str] | None = None,
    python_location: str | None = None,
) -> SparkContext:
    """Start Spark on Kubernetes with this process as the driver, or return the SparkContext that is there, if it is the
    same. In a script that spark-submit runs in cluster mode it returns the SparkContext of that.

    The pods have to reach this process: it is a pod itself, or a host that pods can reach.

    Args:
        master: the API server's address, "k8s://https://host:6443". Who we are for it is taken from the kubeconfig
            (KUBECONFIG), in a pod from its service account, or from `conf`.
        container_image: of the executors; see docs/kubernetes.md for what has to be in it.
        conda_name: a Python environment for the executors: the name or folder of a conda environment, packed by
            conda-pack, or the folder of a venv, packed by venv-pack2 (the interpreter that the venv was made with has
            to be in the image). None: the image has it.
        num_executors: and so the number of sparkray's nodes.
        executor_cores: of each executor.
        executor_memory: the heap of each executor's JVM, as Spark writes sizes ("2g").
        driver_memory: the heap of the driver's JVM. A JVM that is up already keeps its own.
        driver_cores: for the record; Kubernetes counts a driver's cores only in cluster mode.
        extra_executor_memory_for_ray: of each pod, for all but the heap: sparkray's processes, its store, Python.
            See docs/spark.md.
        extra_python_lib: .py, .zip or .egg files for the path of Spark's Python, separated by commas.
        penv_archive: path or URL of an archive of an environment, which has bin/python; in place of `conda_name`.
        spark_log_level: "ALL", "DEBUG", "INFO", "WARN", "ERROR", "FATAL" or "OFF".
        redirect_spark_log: obsolete.
        jars: for the class path of driver and executors, separated by commas.
        conf: further settings of Spark, which go over all others.
        python_location: the interpreter in the image, where no environment travels. Not given: spark.pyspark.python,
            PYSPARK_PYTHON, or "python3".

    Raises:
        SparkNotStarted: no Java, no API server, no address that pods could reach, or Spark refused something.
        ValueError: an argument out of range, or another SparkContext is active in this process.
    """
    warn_of_obsolete(redirect_spark_log)
    running = context_in_cluster_mode(spark_log_level)
    if running is not None:
        return running
    job = kubernetes_job(
        master,
        container_image,
        conda_name,
        num_executors,
        executor_cores,
        executor_memory,
        driver_memory,
        driver_cores,
        extra_executor_memory_for_ray,
        extra_python_lib,
        penv_archive,
        jars,
        conf,
        python_location,
    )
    require_java()
    active = active_context()
    if active is None:
        require_api_server(job.api)
    settings = {"spark.submit.deployMode": "client", **driver_settings(job.api), **job.settings}
    later: Mapping[str, str] | None = None
    environment = job.python.environment
    if environment is not None and active is None:
        later = job.python.archives_with(environment.pack(folder_of_jvm(settings)))
    return spark_context(settings, spark_log_level, job.python.path, job.python_files, later)


def init_spark_on_k8s_cluster(
    master: str,
    container_image: str,
    num_executors: int,
    executor_cores: int,
    executor_memory: str = "2g",
    driver_memory: str = "2g",
    driver_cores: int = 4,
    extra_executor_memory_for_ray: str | None = None,
    extra_python_lib: str | None = None,
    penv_archive: str | None = None,
    spark_log_level: str = "WARN",
    redirect_spark_log: bool = True,
    jars: str | None = None,
    conf: Mapping[str, str] | None = None,
    python_location: str | None = None,
) -> SparkContext:
    """Run this script on Kubernetes, its driver in a pod there; this process waits for its end, and then ends itself.

    The script is run again from its beginning, by spark-submit, with the same arguments. There, in cluster mode, this
    function returns the SparkContext; here it does not return. What stands before the call is run twice. Script,
    `extra_python_lib` and sparkray travel in the ConfigMap that Spark makes for the driver, so they need no storage.

    Args:
        container_image: of driver and executors.
        driver_memory: of its heap. Beside it the pod has as much as those of the executors.
        driver_cores: of the driver's pod.
        extra_python_lib: also modules beside the script, which are not there otherwise.
        penv_archive: a URL that the pods can read ("s3a://", "hdfs://", "https://", or "local://" in the image); a
            path of this host's only if `conf` has spark.kubernetes.file.upload.path.
        jars: as `penv_archive`.
        python_location: also of the driver.
        master, num_executors, executor_cores, executor_memory, extra_executor_memory_for_ray, spark_log_level,
            redirect_spark_log, conf: as for `init_spark_on_k8s`.

    Raises:
        SystemExit: the application has ended; the code is that of its driver's pod.
        SparkNotStarted: no Java or no API server.
        ValueError: an argument out of range, there is no script, what is to travel is too large, or a SparkContext is
            active in this process.
    """
    warn_of_obsolete(redirect_spark_log)
    running = context_in_cluster_mode(spark_log_level)
    if running is not None:
        return running
    job = kubernetes_job(
        master,
        container_image,
        None,
        num_executors,
        executor_cores,
        executor_memory,
        driver_memory,
        driver_cores,
        extra_executor_memory_for_ray,
        extra_python_lib,
        penv_archive,
        jars,
        conf,
        python_location,
    )
    script = script_to_submit("init_spark_on_k8s_cluster", "init_spark_on_k8s")
    _require_readable(job)
    require_java()
    require_api_server(job.api)
    pod = f"sparkray-{secrets.token_hex(8)}-driver"
    settings = {
        "spark.kubernetes.driver.pod.name": pod,
        "spark.kubernetes.namespace": default_setting("spark.kubernetes.namespace") or "default",  # Spark's own
        **_cluster_settings(job, script, conf),
    }
    code = submit(lambda folder: _submission(settings, folder, script, job.python_files))
    # Spark's own is 0 however the driver's pod has ended.
    raise SystemExit(code or _code_of_pod(settings))


def _cluster_settings(job: KubernetesJob, script: str, conf: Mapping[str, str] | None) -> dict[str, str]:
    """Of driver and executors.

    Args:
        conf: the user's own, which go over all others.
    """
    own = user_settings(conf)
    settings = {"spark.app.name": os.path.basename(script), **job.settings, **shared_memory("driver", own)}
    if "spark.executor.memoryOverhead" in settings:  # the driver has a node, too
        settings["spark.driver.memoryOverhead"] = settings["spark.executor.memoryOverhead"]
    if job.python.path != IMAGE_PYTHON:
        settings["spark.pyspark.python"] = settings["spark.pyspark.driver.python"] = job.python.path
    return {**settings, **own}


def _submission(
    settings: Mapping[str, str], folder: str, script: str, files: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Spark-submit's arguments, and what to put into its environment.

    Args:
        folder: for files that are there while it runs.
        files: for Python's path.
    """
    conf_folder, program = folder_with_program(folder, settings_folder(), script, files)
    return [*_words(settings), program, *sys.argv[1:]], {"SPARK_CONF_DIR": conf_folder}


def _words(settings: Mapping[str, str]) -> list[str]:
    words = ["--master", settings["spark.master"]]
    for name, value in settings.items():
        words += ["--conf", f"{name}={value}"]
    return words


def _code_of_pod(settings: Mapping[str, str]) -> int:
    """The exit code of the driver's pod, as spark-submit tells it; 0, if nobody was to wait for its end."""
    if settings.get("spark.kubernetes.submission.waitAppCompletion", "true").lower() != "true":
        return 0
    pod = f"{settings['spark.kubernetes.namespace']}:{settings['spark.kubernetes.driver.pod.name']}"
    try:
        said = subprocess.run(
            spark_submit(*_words(settings), "--status", pod),
            env=environment_of_submit(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_STATUS_LIMIT_S,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired:
        said = f"spark-submit did not say within {_STATUS_LIMIT_S:g} s"
    if "phase: Succeeded" in said:
        return 0
    codes = [int(code) for code in re.findall(r"exit code: (\d+)", said)]
    if not codes:
        sys.stderr.write(f"how the driver's pod {pod} has ended is not known: {said[-2000:]}\n")
    return next((code for code in codes if code), 1)


def _require_readable(job: KubernetesJob) -> None:
    """
    Raises:
        ValueError: the driver's pod cannot read a file of this host's.
    """
    if "spark.kubernetes.file.upload.path" in job.settings:
        return
    for argument, setting in (("penv_archive", "spark.archives"), ("jars", "spark.jars")):
        here = [url for url in job.settings.get(setting, "").split(",") if url.startswith("file:")]
        if here:
            raise ValueError(
                f"{argument} names {here[0]}, which the driver's pod cannot read: put it where it can (a URL, or into "
                'the image as "local:///path"), or give in conf a spark.kubernetes.file.upload.path'
            )
