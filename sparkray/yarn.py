"""Spark on YARN: `init_spark_on_yarn`, with this process as the driver, and `init_spark_on_yarn_cluster`.

Both take BigDL's arguments. The Python environment of the executors is an archive that YARN unpacks in each container,
or what their hosts have; sparkray itself is sent where they lack it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from sparkray.cluster_job import user_settings
from sparkray.env_archives import file_url
from sparkray.ship import pack_sparkray
from sparkray.spark_session import SparkNotStarted, active_context, require_java, spark_context, warn_of_obsolete
from sparkray.submitting import context_in_cluster_mode, folder_of_jvm, script_to_submit, submit
from sparkray.yarn_job import YarnJob, tell_hadoop, yarn_job

if TYPE_CHECKING:
    from pyspark import SparkContext


def init_spark_on_yarn(
    hadoop_conf: str | None,
    conda_name: str | None,
    num_executors: int,
    executor_cores: int,
    executor_memory: str = "2g",
    driver_cores: int = 4,
    driver_memory: str = "2g",
    extra_executor_memory_for_ray: str | None = None,
    extra_python_lib: str | None = None,
    penv_archive: str | None = None,
    additional_archive: str | None = None,
    hadoop_user_name: str | None = None,
    spark_yarn_archive: str | None = None,
    spark_log_level: str = "WARN",
    redirect_spark_log: bool = True,
    jars: str | None = None,
    conf: Mapping[str, str] | None = None,
    py_files: str | None = None,
    python_location: str | None = None,
) -> SparkContext:
    """Start Spark on YARN with this process as the driver, or return the SparkContext that is there, if it is the same.

    In a script that spark-submit runs in cluster mode it returns the SparkContext of that.

    Args:
        hadoop_conf: the folder with yarn-site.xml; None: what HADOOP_CONF_DIR or YARN_CONF_DIR names.
        conda_name: a Python environment for the executors: the name or folder of a conda environment, packed by
            conda-pack, or the folder of a venv, packed by venv-pack2 (the interpreter that the venv was made with has
            to be on the executors' hosts). None: none travels.
        num_executors: and so the number of sparkray's nodes.
        executor_cores: of each executor.
        executor_memory: the heap of each executor's JVM, as Spark writes sizes ("2g").
        driver_cores: for the record; YARN counts a driver's cores only where it runs the driver itself.
        driver_memory: the heap of the driver's JVM. A JVM that is up already keeps its own.
        extra_executor_memory_for_ray: of each container, for all but the heap: sparkray's processes, its store,
            Python. See docs/spark.md.
        extra_python_lib: .py, .zip or .egg files for the path of Spark's Python, separated by commas.
        penv_archive: path or URL of an archive of an environment, which has bin/python; in place of `conda_name`.
        additional_archive: paths or URLs of further archives, separated by commas; "#name" says what the folder with
            its contents is called in a container.
        hadoop_user_name: whom YARN and HDFS see, where they believe what they are told.
        spark_yarn_archive: URL of an archive with Spark's jars, or they are uploaded each time.
        spark_log_level: "ALL", "DEBUG", "INFO", "WARN", "ERROR", "FATAL" or "OFF".
        redirect_spark_log: obsolete.
        jars: for the class path of driver and executors, separated by commas.
        conf: further settings of Spark.
        py_files: as `extra_python_lib`.
        python_location: the interpreter on the executors' hosts, where no environment travels. Not given:
            PYSPARK_PYTHON, else the path of this process's own.

    Raises:
        SparkNotStarted: no Java, no ResourceManager, or Spark or YARN refused something.
        ValueError: an argument out of range, or another SparkContext is active in this process.
    """
    warn_of_obsolete(redirect_spark_log)
    running = context_in_cluster_mode(spark_log_level)
    if running is not None:
        return running
    job = yarn_job(
        hadoop_conf,
        conda_name,
        num_executors,
        executor_cores,
        executor_memory,
        driver_cores,
        driver_memory,
        extra_executor_memory_for_ray,
        extra_python_lib,
        penv_archive,
        additional_archive,
        spark_yarn_archive,
        jars,
        conf,
        py_files,
        python_location,
        hadoop_user_name,
    )
    require_java()
    tell_hadoop(job)
    settings = {
        **job.settings,
        "spark.submit.deployMode": "client",
        # A driver that was killed shall not look like one that was through.
        "spark.yarn.am.clientModeTreatDisconnectAsFailed": "true",
    }
    later: Mapping[str, str] | None = None
    environment = job.python.environment
    if environment is not None and active_context() is None:
        later = job.python.archives_with(environment.pack(folder_of_jvm(settings)))
    settings |= user_settings(conf)
    return spark_context(settings, spark_log_level, job.python.path, job.python_files, later)


def init_spark_on_yarn_cluster(
    hadoop_conf: str | None,
    conda_name: str | None,
    num_executors: int,
    executor_cores: int,
    executor_memory: str = "2g",
    driver_cores: int = 4,
    driver_memory: str = "2g",
    extra_executor_memory_for_ray: str | None = None,
    extra_python_lib: str | None = None,
    penv_archive: str | None = None,
    additional_archive: str | None = None,
    hadoop_user_name: str | None = None,
    spark_yarn_archive: str | None = None,
    spark_log_level: str = "WARN",
    redirect_spark_log: bool = True,
    jars: str | None = None,
    conf: Mapping[str, str] | None = None,
    py_files: str | None = None,
    python_location: str | None = None,
) -> SparkContext:
    """Run this script on YARN, its driver in a container there; this process waits for its end, and then ends itself.

    The script is run again from its beginning, by spark-submit, with the same arguments. There, in cluster mode, this
    function returns the SparkContext; here it does not return. What stands before the call is run twice.

    Args:
        driver_cores: of the driver's container.
        driver_memory: of its heap. Beside it the container has as much as those of the executors.
        extra_python_lib: also modules beside the script, which are not there otherwise.
        python_location: also of the driver.
        hadoop_conf, conda_name, num_executors, executor_cores, executor_memory, extra_executor_memory_for_ray,
            penv_archive, additional_archive, hadoop_user_name, spark_yarn_archive, spark_log_level,
            redirect_spark_log, jars, conf, py_files: as for `init_spark_on_yarn`.

    Raises:
        SystemExit: the application has ended; the code is that of spark-submit, 0 if it succeeded.
        SparkNotStarted: no Java or no ResourceManager.
        ValueError: an argument out of range, there is no script, or a SparkContext is active in this process.
    """
    warn_of_obsolete(redirect_spark_log)
    running = context_in_cluster_mode(spark_log_level)
    if running is not None:
        return running
    job = yarn_job(
        hadoop_conf,
        conda_name,
        num_executors,
        executor_cores,
        executor_memory,
        driver_cores,
        driver_memory,
        extra_executor_memory_for_ray,
        extra_python_lib,
        penv_archive,
        additional_archive,
        spark_yarn_archive,
        jars,
        conf,
        py_files,
        python_location,
        hadoop_user_name,
    )
    script = script_to_submit("init_spark_on_yarn_cluster", "init_spark_on_yarn")
    require_java()
    tell_hadoop(job)
    raise SystemExit(submit(lambda folder: (_words(job, folder, script, conf), {})))


def _words(job: YarnJob, folder: str, script: str, conf: Mapping[str, str] | None) -> list[str]:
    """Of spark-submit.

    Args:
        folder: for files that are there while it runs.
        conf: the user's own, which go over all others.
    """
    settings = dict(job.settings)
    if "spark.executor.memoryOverhead" in settings:  # the driver has a node, too
        settings["spark.driver.memoryOverhead"] = settings["spark.executor.memoryOverhead"]
    for name in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"):
        settings[f"spark.yarn.appMasterEnv.{name}"] = job.python.path
    if job.python.environment is not None:
        settings |= job.python.archives_with(job.python.environment.pack(folder))
    settings |= user_settings(conf)
    files = [*job.python_files, pack_sparkray(folder)]  # the driver's own sparkray, whatever is installed there
    words = ["--master", "yarn", "--name", settings.get("spark.app.name", os.path.basename(script))]
    for name, value in settings.items():
        words += ["--conf", f"{name}={value}"]
    return [*words, "--py-files", ",".join(map(file_url, files)), script, *sys.argv[1:]]


def init_spark_on_mesos(*_: Any, **__: Any) -> NoReturn:
    """
    Raises:
        SparkNotStarted: always.
    """
    raise SparkNotStarted(
        "Spark 4.0 has dropped Mesos: use init_spark_on_yarn, init_spark_standalone with a master of yours, or "
        "spark-submit to any cluster that Spark still knows, and RayContext(sc)"
    )
