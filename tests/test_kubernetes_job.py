"""What the arguments of `init_spark_on_k8s` come to, and how a script travels, without a Kubernetes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray import kubernetes, kubernetes_job, kubernetes_program
from sparkray.kubernetes_job import KubernetesJob, driver_settings, own_address, require_api_server
from sparkray.spark_session import SparkNotStarted
from sparkray.submitting import default_setting

MASTER = "k8s://https://cluster:6443"


@pytest.fixture(autouse=True)
def without_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)


def job(**arguments: Any) -> KubernetesJob:
    given: dict[str, Any] = dict.fromkeys(kubernetes_job.kubernetes_job.__annotations__.keys() - {"return"})
    given |= {
        "master": MASTER,
        "container_image": "mine:1",
        "num_executors": 2,
        "executor_cores": 3,
        "executor_memory": "2g",
        "driver_cores": 4,
        "driver_memory": "1g",
    }
    return kubernetes_job.kubernetes_job(**{**given, **arguments})


def test_sizes_and_places_become_settings(tmp_path: Path) -> None:
    (tmp_path / "a.jar").touch()
    found = job(
        extra_executor_memory_for_ray="3g",
        jars=f"{tmp_path}/a.jar, s3a://bucket/b.jar",
        conf={"spark.executor.cores": 5},
        extra_python_lib="one.py,two.py",
    )
    assert found.api == ("cluster", 6443)
    assert found.python_files == ("one.py", "two.py")
    assert found.settings == {
        "spark.master": MASTER,
        "spark.kubernetes.container.image": "mine:1",
        "spark.executor.instances": "2",
        "spark.dynamicAllocation.enabled": "false",
        "spark.executor.cores": "5",  # the user's own settings go over all
        "spark.executor.memory": "2g",
        "spark.driver.cores": "4",
        "spark.driver.memory": "1g",
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.executor.memoryOverhead": "3g",
        "spark.kubernetes.executor.volumes.emptyDir.sparkray-shm.mount.path": "/dev/shm",
        "spark.kubernetes.executor.volumes.emptyDir.sparkray-shm.options.medium": "Memory",
        "spark.jars": f"{(tmp_path / 'a.jar').as_uri()},s3a://bucket/b.jar",
    }


@pytest.mark.parametrize(
    ("conf", "ours"),
    [
        ({"spark.kubernetes.executor.volumes.emptyDir.mine.mount.path": "/dev/shm"}, False),
        ({"spark.kubernetes.executor.podTemplateFile": "pod.yaml"}, False),
        ({"spark.kubernetes.executor.volumes.emptyDir.mine.mount.path": "/data"}, True),
    ],
)
def test_a_user_s_own_shared_memory_is_left_as_it_is(conf: dict[str, str], ours: bool) -> None:
    assert any("sparkray-shm" in name for name in job(conf=conf).settings) is ours


@pytest.mark.parametrize(
    ("master", "told", "api"),
    [
        ("https://10.0.0.1", "k8s://https://10.0.0.1", ("10.0.0.1", 443)),
        ("k8s://http://127.0.0.1:8001", "k8s://http://127.0.0.1:8001", ("127.0.0.1", 8001)),
        ("k8s://http://proxy/", "k8s://http://proxy/", ("proxy", 80)),
        ("k8s://cluster:6443", "k8s://cluster:6443", ("cluster", 6443)),
        ("k8s://https://[::1]:6443", "k8s://https://[::1]:6443", ("::1", 6443)),
    ],
)
def test_masters(master: str, told: str, api: tuple[str, int]) -> None:
    found = job(master=master)
    assert (found.settings["spark.master"], found.api) == (told, api)


def test_the_python_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job(penv_archive="s3a://b/env.tar.gz").python.path == "./python_env/bin/python"
    assert job(penv_archive="s3a://b/env.tar.gz").settings["spark.archives"] == "s3a://b/env.tar.gz#python_env"
    assert job().python.path == "python3"
    monkeypatch.setenv("PYSPARK_PYTHON", "/opt/python")
    assert job().python.path == "/opt/python"
    assert job(conf={"spark.pyspark.python": "/usr/bin/python3"}).python.path == "/usr/bin/python3"
    assert job(python_location="/bin/python3").python.path == "/bin/python3"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"master": "yarn and more"}, "master must be the API server's address"),
        ({"container_image": ""}, "container_image must name an image"),
        ({"num_executors": 0}, "num_executors must be a whole number above 0, not 0"),
        ({"executor_memory": "much"}, 'executor_memory must be a number of bytes, or a size like "512m" or "4g"'),
        ({"jars": "/nowhere/a.jar"}, "/nowhere/a.jar is not there"),
        ({"penv_archive": "s3a://b/e.zip", "python_location": "/p"}, "penv_archive brings its own Python"),
        ({"conda_name": "/nowhere/env"}, "/nowhere/env is neither a conda environment"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        job(**arguments)


def test_nobody_at_the_api_server_s_address_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(SparkNotStarted, match=f"nobody listens at 127.0.0.1:{port}, .*`kubectl cluster-info`"):
            require_api_server(("127.0.0.1", port))
        with pytest.raises(SparkNotStarted, match="nobody listens at"):
            sparkray.init_spark_on_k8s(f"k8s://https://127.0.0.1:{port}", "image", None, 2, 1)


def test_the_driver_s_address_is_no_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def address(places: dict[str, str]) -> str:
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [(0, 0, 0, "", (host, port))])
        monkeypatch.setattr(socket, "socket", lambda *_: Asked(places))
        return own_address(("api", 443))

    assert address({"api": "10.1.2.3"}) == "10.1.2.3"
    assert address({"api": "127.0.0.1", "203.0.113.1": "192.168.0.7"}) == "192.168.0.7"
    with pytest.raises(SparkNotStarted, match=r"no address by which pods could reach it: .*spark\.driver\.host"):
        address({"api": "127.0.0.1"})
    assert driver_settings_in_pod(monkeypatch, tmp_path) == {
        "spark.driver.host": "10.1.2.3",
        "spark.driver.bindAddress": "10.1.2.3",
        "spark.kubernetes.namespace": "team",
        "spark.kubernetes.driver.pod.name": "notebook-0",
    }


def driver_settings_in_pod(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, str]:
    (folder / "namespace").write_text("team\n")
    monkeypatch.setattr(kubernetes_job, "_ACCOUNT", folder)
    monkeypatch.setattr(kubernetes_job, "own_address", lambda _: "10.1.2.3")
    monkeypatch.setenv("HOSTNAME", "notebook-0")
    return driver_settings(("api", 443))


class Asked:
    """A socket that knows by which of its addresses a host goes to others."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places, self._found = places, ""

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, address: tuple[str, int]) -> None:
        if address[0] not in self._places:
            raise OSError("Network is unreachable")
        self._found = self._places[address[0]]

    def getsockname(self) -> tuple[str, int]:
        return self._found, 1


PROGRAM = """
import os, sys, beside, sparkray
print(__name__, sys.argv[1:], beside.WORD, os.path.basename(__file__), os.path.dirname(sparkray.__file__))
print(os.environ["PYTHON_FILES_OF_SPARKRAY"], os.path.dirname(beside.__file__))
"""


def test_a_script_travels_in_a_folder_of_settings(tmp_path: Path) -> None:
    """Here it is run where it was made: as in a pod, but that the folder is another."""
    (tmp_path / "now").mkdir()
    (tmp_path / "now" / "spark-defaults.conf").write_text("spark.ui.enabled false\n")
    (tmp_path / "script.py").write_text(PROGRAM)
    (tmp_path / "beside.py").write_text("WORD = 'travelled'")
    folder, url = kubernetes_program.folder_with_program(
        str(tmp_path), str(tmp_path / "now"), str(tmp_path / "script.py"), [str(tmp_path / "beside.py")]
    )
    assert sorted(os.listdir(folder)) == ["spark-defaults.conf", "sparkray_program.py", "sparkray_program.txt"]
    assert url == "local:///opt/spark/conf/sparkray_program.py"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    shutil.copytree(folder, tmp_path / "mounted")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "mounted/sparkray_program.py"), "a", "b c"],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (unpacked,) = temporary.iterdir()
    assert done.stdout.splitlines() == [
        f"__main__ ['a', 'b c'] travelled script.py {unpacked}/sparkray/sparkray",
        f"{unpacked}/files/beside.py {unpacked}/files",
    ]
    assert done.stderr == ""


@pytest.mark.parametrize("line", ["spark.kubernetes.namespace team", "spark.kubernetes.namespace = team  ", "\tno=1"])
def test_a_setting_in_spark_s_own_file(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    assert default_setting("spark.kubernetes.namespace") is None
    (tmp_path / "spark-defaults.conf").write_text(f"# spark.kubernetes.namespace other\n{line}\n")
    assert default_setting("spark.kubernetes.namespace") == ("team" if "team" in line else None)


def test_what_is_too_large_for_a_configmap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "script.py").touch()
    (tmp_path / "large.zip").write_bytes(os.urandom(1_000_000))
    with pytest.raises(ValueError, match=r"packed, and a ConfigMap takes 1,000,000: put the modules into the image"):
        kubernetes_program.folder_with_program(
            str(tmp_path), "/nowhere", str(tmp_path / "script.py"), [str(tmp_path / "large.zip")]
        )


def test_settings_count_for_the_size_of_a_configmap_too(tmp_path: Path) -> None:
    (tmp_path / "script.py").touch()
    (tmp_path / "now").mkdir()
    (tmp_path / "now" / "metrics.properties").write_bytes(b"x" * 900_000)
    with pytest.raises(ValueError, match=r"Spark's settings, the script, .* a ConfigMap takes 1,000,000"):
        kubernetes_program.folder_with_program(str(tmp_path), str(tmp_path / "now"), str(tmp_path / "script.py"), [])


@pytest.mark.parametrize("file", ["/nowhere/a.py", "s3a://bucket/a.zip"])
def test_only_files_of_this_host_s_travel(file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"extra_python_lib names {file}, .*spark\.submit\.pyFiles"):
        kubernetes_program.folder_with_program(str(tmp_path), "/nowhere", str(tmp_path / "script.py"), [file])


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("phase: Succeeded\n exit code: 0", 0),
        ("phase: Failed\n exit code: 0\n exit code: 3", 3),  # a side container's first
        ("phase: Failed\n exit code: 0", 1),
        ("No applications found.", 1),
    ],
)
def test_the_code_of_a_driver_s_pod(
    said: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kubernetes, "spark_submit", lambda *_: [sys.executable, "-c", f"print({said!r})"])
    settings = {
        "spark.master": MASTER,
        "spark.kubernetes.namespace": "team",
        "spark.kubernetes.driver.pod.name": "mine",
    }
    assert kubernetes._code_of_pod(settings) == code
    assert ("the driver's pod team:mine has ended is not known" in capsys.readouterr().err) is ("exit" not in said)
    assert kubernetes._code_of_pod(settings | {"spark.kubernetes.submission.waitAppCompletion": "false"}) == 0


def test_cluster_mode_wants_a_script_and_files_that_the_pod_can_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "env.tar.gz").touch()
    archive = str(tmp_path / "env.tar.gz")
    with pytest.raises(ValueError, match=r"penv_archive names file://.*/env\.tar\.gz#python_env, which the driver"):
        kubernetes._require_readable(job(penv_archive=archive))
    kubernetes._require_readable(job(penv_archive=archive, conf={"spark.kubernetes.file.upload.path": "s3a://b"}))
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # as in a notebook
    with pytest.raises(ValueError, match="runs this process's script again"):
        sparkray.init_spark_on_k8s_cluster(MASTER, "image", 2, 1)
