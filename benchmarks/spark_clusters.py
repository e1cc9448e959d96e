"""How long `RayContext(sc).init()` takes to its first task's result on each kind of cluster.

Each is a real one with two executors of one core, and a driver in a process of its own. All are up, and have run
Python, before the first round; then they take turns, so a slow minute hits all. YARN is started out of Hadoop's jars,
as the tests do; Kubernetes has to be there: KUBECONFIG and the image are those of `make test-k8s`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyspark
from micro import say
from micro_report import number
from spark_data import Measured
from spark_process import Child

ROOT = Path(__file__).resolve().parents[1]
WORK = Path(str(pyspark.__file__)).parent / "work"
MASTER = "local-cluster[2,1,1024]"
EXECUTORS = 2
QUIET = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.scheduler.minRegisteredResourcesRatio": "1.0",
    "spark.executor.cores": "1",
}


class NotThere(Exception):
    """A cluster that cannot be had here, and why."""


@dataclass(frozen=True)
class Cluster:
    """What a driver needs to be on it."""

    master: str
    conf: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def local_cluster() -> Iterator[Cluster]:
    """Master, workers and executors as JVMs of this machine that Spark starts by itself."""
    yield Cluster(MASTER, {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"})


@contextmanager
def yarn() -> Iterator[Cluster]:
    """A ResourceManager and two NodeManagers, of which each has room for one executor."""
    from tests.spark.yarn import EXECUTOR_MIB, running_yarn

    with ExitStack() as stack:
        try:
            running = stack.enter_context(running_yarn(Path(tempfile.mkdtemp(prefix="sparkray-yarn-"))))
        except (AssertionError, OSError) as error:  # its jars cannot be fetched, or it does not come up
            raise NotThere(str(error).strip().partition("\n")[0]) from error
        sizes = {
            "spark.executor.instances": str(EXECUTORS),
            "spark.executor.memory": f"{EXECUTOR_MIB}m",
            "spark.executor.memoryOverhead": f"{EXECUTOR_MIB}m",
        }
        yield Cluster("yarn", running.settings() | sizes, {"HADOOP_CONF_DIR": str(running.conf)})


@contextmanager
def kubernetes() -> Iterator[Cluster]:
    """Two pods in a namespace of this run's own, on whichever cluster KUBECONFIG names."""
    from tests.spark.kubernetes import EXECUTOR_MIB, running_kubernetes, why_not

    if (why := why_not()) is not None:
        raise NotThere(why)
    from sparkray.kubernetes_job import driver_settings, kubernetes_job

    with ExitStack() as stack:
        try:
            running = stack.enter_context(running_kubernetes())
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            raise NotThere(str(error).strip().partition("\n")[0]) from error
        size = f"{EXECUTOR_MIB}m"
        python = sys.executable if running.mounts else "python3"
        job = kubernetes_job(
            master=running.master,
            container_image=running.image,
            conda_name=None,
            num_executors=EXECUTORS,
            executor_cores=1,
            executor_memory=size,
            driver_memory=size,
            driver_cores=1,
            extra_executor_memory_for_ray=size,
            extra_python_lib=None,
            penv_archive=None,
            jars=None,
            conf=running.settings(),
            python_location=python,
        )
        # The pods' Python need not be this one.
        yield Cluster(running.master, driver_settings(job.api) | dict(job.settings), {"PYSPARK_PYTHON": python})


CLUSTERS = {"local-cluster": local_cluster, "YARN": yarn, "Kubernetes": kubernetes}


def new_rows(names: list[str]) -> dict[str, Measured]:
    return {
        f"{name} {what}": Measured(f"{name}: {title}", "s")
        for name in names
        for what, title in (
            ("start", "init() to the first task's result"),
            ("init", "  of which until init() returned"),
            ("stop", "stop(), all gone"),
        )
    }


def measure(args: argparse.Namespace) -> tuple[dict[str, Measured], dict[str, str], list[str]]:
    """Rows, versions, and what there is to say of clusters that could not be had.

    Raises:
        RuntimeError: a driver ended, or could not do what it was told; its last words.
    """
    sys.path.insert(0, str(ROOT))  # for tests.spark
    notes: list[str] = []
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for name, start in CLUSTERS.items():
            if isinstance(found := _driver(args.python, stack, start()), Child):
                children[name] = found
                # local-cluster leaves a folder inside PySpark.
                stack.callback(shutil.rmtree, WORK / found.facts["application"], ignore_errors=True)
                stack.callback(found.end)
                say(f"{name} is up")
            else:
                notes.append(f"{name} NOT measured: {found}")
        rows = new_rows(list(children))
        for turn in range(args.start_rounds + 1):
            for name in list(children)[:: 1 if turn % 2 else -1]:
                found = children[name].do("start") | children[name].do("stop")
                say(
                    f"{f'round {turn}' if turn else 'warm-up'}  {name:<13} "
                    + "  ".join(f"{what} {number(value)}" for what, value in found.items())
                )
                if turn:
                    for what, value in found.items():
                        rows[f"{name} {what}"].values.append(value)
        facts = next(iter(children.values())).facts
    return rows, {"sparkray": facts["version"], "python": facts["python"]}, notes


def _driver(python: str, stack: ExitStack, start: AbstractContextManager[Cluster]) -> Child | str:
    """On that cluster, which is up until the stack is closed; or why there is none."""
    try:
        cluster = stack.enter_context(start)
    except NotThere as why:
        return str(why)
    order = {"master": cluster.master, "conf": QUIET | dict(cluster.conf), "secret": None}
    return Child(python, "sparkray", order, cluster.environment)
