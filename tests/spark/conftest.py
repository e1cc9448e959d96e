"""SparkContexts that tests share: starting one takes seconds, and a process can have only one at a time.

A module uses `local_sc` or `cluster_sc` (or a session in it: `local_ray`, `cluster_ray`), not both. They are kept until
a module asks for the other.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyspark
import pytest
from pyspark import SparkConf, SparkContext

from sparkray import RayContext

LOCAL = "local[2]"
CLUSTER = "local-cluster[2,1,1024]"
START_S = 240  # a machine busy with other tests takes long to start three JVMs
SMALL_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # up sooner: most of a short JVM's time is spent compiling
SETTINGS = {
    "spark.driver.extraJavaOptions": SMALL_JVM,
    "spark.executor.extraJavaOptions": SMALL_JVM,
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "2",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.spark)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(START_S + 60))


class Contexts:
    """One SparkContext at a time, of the master that was asked for last."""

    def __init__(self) -> None:
        self._sc: SparkContext | None = None
        self._settings: Mapping[str, str] = {}

    def get(self, master: str, more: Mapping[str, str] | None = None) -> SparkContext:
        settings = SETTINGS | dict(more or {})
        if self._sc is not None and ((self._sc.master, self._settings) != (master, settings) or self._sc._jsc is None):
            self.stop()
        if self._sc is None:
            self._settings = settings
            self._sc = SparkContext(
                conf=SparkConf().setAll(list(settings.items())).setMaster(master).setAppName("tests")
            )
            self._sc.setLogLevel("ERROR")
        return self._sc

    def stop(self) -> None:
        if self._sc is not None:
            application = self._sc.applicationId if self._sc._jsc is not None else None
            self._sc.stop()
            if application is not None:
                remove_work_folder(application)
            self._sc = None

    def end_jvm(self) -> None:
        """And the context in it. The next one starts another."""
        self.stop()
        gateway: Any = SparkContext._gateway
        if gateway is not None:  # the JVM ends when its stdin does
            gateway.shutdown()
            gateway.proc.stdin.close()
            gateway.proc.wait()
            SparkContext._gateway = SparkContext._jvm = None


def remove_work_folder(application: str) -> None:
    """local-cluster leaves one for its executors, inside PySpark."""
    shutil.rmtree(Path(str(pyspark.__file__)).parent / "work" / application, ignore_errors=True)


_contexts = Contexts()


# A JVM does not live through all that tests of other folders do to their process.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Iterator[None]:
    try:
        return (yield)
    finally:
        if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
            _contexts.end_jvm()


@pytest.fixture(scope="session")
def contexts() -> Contexts:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"  # whatever this machine's name resolves to
    return _contexts


@pytest.fixture(scope="module")
def local_sc(contexts: Contexts) -> SparkContext:
    """One JVM, two slots."""
    return contexts.get(LOCAL)


@pytest.fixture(scope="module")
def cluster_sc(contexts: Contexts) -> SparkContext:
    """Two executors of one slot each, in JVMs of their own."""
    return contexts.get(CLUSTER)


@pytest.fixture(scope="module")
def local_ray(local_sc: SparkContext) -> Iterator[RayContext]:
    """A running session in `local_sc`."""
    with RayContext(local_sc, object_store_memory="256m", start_timeout=START_S) as ctx:
        yield ctx


@pytest.fixture(scope="module")
def cluster_ray(cluster_sc: SparkContext) -> Iterator[RayContext]:
    """A running session in `cluster_sc`: two nodes and the driver's."""
    with RayContext(cluster_sc, object_store_memory="256m", start_timeout=START_S) as ctx:
        yield ctx
