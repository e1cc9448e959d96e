"""What the arguments of `init_spark_on_yarn` come to, without a YARN."""

from __future__ import annotations

import os
import socket
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray.cluster_job import ExecutorsPython
from sparkray.env_archives import archive_url, travelling
from sparkray.spark_session import SparkNotStarted
from sparkray.yarn_job import ARCHIVES, YarnJob, yarn_job

SITE = "<configuration><property><name>{}</name><value>{}</value></property></configuration>"


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR", "HADOOP_USER_NAME", "PYSPARK_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "yarn-site.xml").write_text(SITE.format("a", "b"))
    return str(folder)


def job(hadoop_conf: str | None, **arguments: Any) -> YarnJob:
    given = dict.fromkeys(yarn_job.__annotations__.keys() - {"return"})
    sizes: dict[str, Any] = {
        "num_executors": 2,
        "executor_cores": 3,
        "executor_memory": "2g",
        "driver_cores": 4,
        "driver_memory": "1g",
    }
    return yarn_job(**{**given, **sizes, **arguments, "hadoop_conf": hadoop_conf})


def test_sizes_and_places_become_settings(conf: str, tmp_path: Path) -> None:
    (tmp_path / "a.jar").touch()
    (tmp_path / "data.zip").touch()
    found = job(
        conf,
        extra_executor_memory_for_ray="3g",
        jars=f"{tmp_path}/a.jar, hdfs:///b.jar",
        additional_archive=f"{tmp_path}/data.zip#data",
        conf={"spark.executor.cores": 5},
        py_files="one.py,two.py",
        extra_python_lib="three.py",
        hadoop_user_name="ada",
    )
    assert found == YarnJob(
        hadoop_conf=conf,
        user="ada",
        settings={
            "spark.master": "yarn",
            "spark.executor.instances": "2",
            "spark.dynamicAllocation.enabled": "false",
            "spark.executor.cores": "5",  # the user's own settings go over all
            "spark.executor.memory": "2g",
            "spark.driver.cores": "4",
            "spark.driver.memory": "1g",
            "spark.scheduler.minRegisteredResourcesRatio": "1.0",
            "spark.executor.memoryOverhead": "3g",
            "spark.jars": f"{(tmp_path / 'a.jar').as_uri()},hdfs:///b.jar",
            "spark.yarn.dist.archives": f"{(tmp_path / 'data.zip').as_uri()}#data",
            "spark.executorEnv.PYSPARK_PYTHON": sys.executable,
        },
        python=ExecutorsPython(sys.executable, None, (f"{(tmp_path / 'data.zip').as_uri()}#data",), ARCHIVES),
        python_files=("three.py", "one.py", "two.py"),
    )


@pytest.mark.parametrize(
    ("given", "archive", "python"),
    [
        ("hdfs://host/env.tar.gz", "hdfs://host/env.tar.gz#python_env", "./python_env/bin/python"),
        ("hdfs://host/env.zip#mine", "hdfs://host/env.zip#mine", "./mine/bin/python"),
    ],
)
def test_the_python_of_an_archive_is_that_of_its_folder(conf: str, given: str, archive: str, python: str) -> None:
    found = job(conf, penv_archive=given, conda_name="not looked at, as in BigDL")
    assert (found.settings["spark.yarn.dist.archives"], found.python.path) == (archive, python)
    assert found.settings["spark.executorEnv.PYSPARK_PYTHON"] == python


def test_executors_that_have_python_run_the_one_that_is_named(conf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", "/opt/python")
    assert job(conf).python.path == "/opt/python"
    assert job(conf, python_location="/usr/bin/python3").python.path == "/usr/bin/python3"


def test_the_folder_with_the_cluster_s_settings_may_come_from_the_environment(
    conf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"hadoop_conf must name the folder .* or HADOOP_CONF_DIR must be set"):
        job(None)
    monkeypatch.setenv("YARN_CONF_DIR", conf)
    assert job(None).hadoop_conf == conf
    with pytest.raises(ValueError, match=r"there is no yarn-site\.xml in"):
        job(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_executors": 0}, "num_executors must be a whole number above 0, not 0"),
        ({"executor_cores": True}, "executor_cores must be a whole number above 0, not True"),
        ({"executor_memory": "much"}, 'executor_memory must be a number of bytes, or a size like "512m" or "4g"'),
        ({"jars": "/nowhere/a.jar"}, "/nowhere/a.jar is not there"),
        ({"penv_archive": "/nowhere/env.tar.gz"}, "/nowhere/env.tar.gz is not there"),
        ({"penv_archive": "hdfs:///env"}, "hdfs:///env is no archive that YARN unpacks"),
        ({"penv_archive": "hdfs:///e.zip", "python_location": "/p"}, "penv_archive brings its own Python"),
        ({"conda_name": "/nowhere/env"}, "/nowhere/env is neither a conda environment"),
    ],
)
def test_what_cannot_be_is_refused(conf: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        job(conf, **arguments)


def test_a_missing_packer_says_what_to_install(conf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "conda_pack", None)
    monkeypatch.setitem(sys.modules, "venv_pack", None)
    with pytest.raises(
        ValueError, match=r"conda-pack is needed to send a conda environment .* `pip install conda-pack`"
    ):
        job(conf, conda_name="orca")
    (tmp_path / "pyvenv.cfg").touch()
    with pytest.raises(ValueError, match=r"venv-pack2 is needed"):
        job(conf, conda_name=str(tmp_path))


def test_a_venv_is_packed(tmp_path: Path) -> None:
    import venv

    venv.create(tmp_path / "env", symlinks=True)
    (packed := tmp_path / "packed").mkdir()
    found = travelling(str(tmp_path / "env"))
    assert str(found) == f"the venv {tmp_path / 'env'}"
    with tarfile.open(found.pack(str(packed))) as archive:
        assert "bin/python" in archive.getnames()
    assert archive_url(str(packed / "python_env.tar.gz")).endswith("/packed/python_env.tar.gz#python_env")


def test_nobody_at_the_manager_s_address_is_told_at_once(conf: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        Path(conf, "yarn-site.xml").write_text(SITE.format("yarn.resourcemanager.address", address))
        before = dict(os.environ)
        try:
            with pytest.raises(SparkNotStarted, match=f"nobody listens at {address}, the ResourceManager's address"):
                sparkray.init_spark_on_yarn(conf, None, 2, 1)
        finally:
            os.environ.clear()
            os.environ.update(before)


def test_mesos_is_gone() -> None:
    with pytest.raises(SparkNotStarted, match=r"Spark 4\.0 has dropped Mesos: use init_spark_on_yarn"):
        sparkray.init_spark_on_mesos("mesos://host:5050", executor_cores=2)


def test_cluster_mode_wants_a_script(conf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # as in a notebook
    with pytest.raises(ValueError, match="runs this process's script again"):
        sparkray.init_spark_on_yarn_cluster(conf, None, 2, 1)


def test_redirect_spark_log_is_obsolete(conf: str) -> None:
    with (
        pytest.warns(DeprecationWarning, match="redirect_spark_log does nothing"),
        pytest.raises(ValueError, match="num"),
    ):
        sparkray.init_spark_on_yarn(conf, None, 0, 1, redirect_spark_log=False)
