"""What the arguments of `init_spark_standalone`, `init_spark_on_yarn` and `init_spark_on_k8s` have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparkray.env_archives import NAME, Travelling, archive_url, python_in, travelling
from sparkray.sizing import memory_bytes

# Which environment was packed, for a second call to compare: the archive is another each time.
_PACKED = "spark.sparkray.environment"


def sizes(
    num_executors: int,
    executor_cores: int,
    executor_memory: str,
    driver_cores: int,
    driver_memory: str,
    extra_executor_memory_for_ray: str | None,
) -> dict[str, str]:
    """As settings, but for the number of executors, which each cluster is told in its own way.

    Raises:
        ValueError: one that cannot be.
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
    overhead = extra_executor_memory_for_ray
    return {
        "spark.executor.cores": str(executor_cores),
        "spark.executor.memory": executor_memory,
        "spark.driver.cores": str(driver_cores),
        "spark.driver.memory": driver_memory,
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        **({} if overhead is None else {"spark.executor.memoryOverhead": overhead}),
    }


def number_of_executors(count: int) -> dict[str, str]:
    """Where a manager of the cluster makes them. A cluster's own defaults often have dynamic allocation on."""
    return {"spark.executor.instances": str(count), "spark.dynamicAllocation.enabled": "false"}


@dataclass(frozen=True, slots=True)
class ExecutorsPython:
    """The interpreter of the executors, and the archives that are unpacked for it."""

    path: str
    environment: Travelling | None  # to be packed first
    archives: tuple[str, ...]  # further ones, as URLs
    setting: str  # of Spark, for all archives

    def settings(self) -> dict[str, str]:
        """As far as they are known before anything is packed."""
        if self.environment is not None:
            return {_PACKED: str(self.environment)}
        return {self.setting: ",".join(self.archives)} if self.archives else {}

    def archives_with(self, packed: str) -> Mapping[str, str]:
        """The setting, once the environment is packed."""
        return {self.setting: ",".join((archive_url(packed), *self.archives))}


def executors_python(
    conda_name: str | None,
    penv_archive: str | None,
    python_location: str | None,
    additional_archive: str | None,
    own: str,
    setting: str,
) -> ExecutorsPython:
    """
    Args:
        own: where no environment travels and nothing is said.

    Raises:
        ValueError: two arguments that exclude each other, or a file that is not there.
    """
    if penv_archive is not None and python_location is not None:
        raise ValueError("penv_archive brings its own Python: leave python_location out")
    environment = travelling(conda_name) if conda_name is not None and penv_archive is None else None
    if environment is not None and python_location is not None:
        raise ValueError("conda_name brings its own Python: leave python_location out")
    archives = tuple(archive_url(name, None) for name in split(additional_archive))
    path = python_location or own
    if penv_archive is not None:
        archives = (archive_url(penv_archive), *archives)
        path = python_in(archives[0])
    if environment is not None:
        path = f"./{NAME}/bin/python"
    return ExecutorsPython(path, environment, archives, setting)


def user_settings(conf: Mapping[str, str] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in (conf or {}).items()}


def split(names: str | None) -> Sequence[str]:
    """Of a list that is separated by commas."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]
