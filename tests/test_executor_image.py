"""`examples/kubernetes/`: the image of executors on Kubernetes, as far as it can be had without a Docker engine.

Where there are buildah, debootstrap and root, it is built by them, from a Debian that they make; anywhere else its
steps run in a folder, but for those that need root. Both end with a program that the entry point starts in what was
made.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.pages import ROOT

FOLDER = ROOT / "examples" / "kubernetes"
DOCKERFILE = FOLDER / "Dockerfile"
ENTRY_POINT = FOLDER / "entrypoint.sh"
BUILD_S = 800.0
PROGRAM = """
import getpass, sys
from pyspark.sql import SparkSession
import sparkray as ray

@ray.remote
def square(number):
    return number * number

spark = SparkSession.builder.getOrCreate()
with ray.RayContext(spark, object_store_memory="64m"):
    numbers = ray.get([square.remote(number) for number in range(10)])
    rows = ray.data.from_spark(spark.range(1000)).count()
print("SAID", getpass.getuser(), sys.executable, sum(numbers), rows, spark.conf.get("spark.driver.bindAddress"))
"""
DRIVER = ["driver", "--master", "local[2]", "--conf", "spark.ui.enabled=false"]
LOOPBACK = {
    "SPARK_DRIVER_BIND_ADDRESS": "127.0.0.1",
    "SPARK_LOCAL_IP": "127.0.0.1",
    "SPARK_LOCAL_HOSTNAME": "localhost",
}


def steps() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their words."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    return [(name, words) for name, _, words in (line.partition(" ") for line in text.splitlines() if line)]


def said_by(command: list[str], more: Mapping[str, str] | None = None) -> str:
    environment = os.environ | dict(more or {})
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, env=environment, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def test_what_the_image_copies_is_there_and_sent_to_its_builder() -> None:
    sent = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    sources = [source for name, words in steps() if name == "COPY" for source in words.split()[:-1]]
    assert len(sources) >= 5
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert sorted(word.removeprefix("!") for word in sent if word.startswith("!")) == sorted(sources)
    assert "*" in sent


# ------------------------------------------------------------------------------------------ the entry point
RECORDS = '#!/bin/bash\nprintf \'%s\\0\' "$(basename "$0")" "$@" > "$RECORD"\n'
POD = {  # what Spark 3.5 and 4 set in an executor's pod
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@10.0.0.1:7078",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "1024m",
    "SPARK_APPLICATION_ID": "spark-app",
    "SPARK_CONF_DIR": "/opt/spark/conf",
    "SPARK_EXECUTOR_ID": "7",
    "SPARK_EXECUTOR_POD_IP": "10.0.0.2",
    "SPARK_EXECUTOR_POD_NAME": "app-exec-7",
    "SPARK_RESOURCE_PROFILE_ID": "0",
    **{f"SPARK_JAVA_OPT_{number}": f"-Dnumber={number}" for number in range(11)},
    "SPARK_JAVA_OPT_11": "-Dwords=two words",
}
Start = Callable[..., list[str]]
BACKEND = "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"


@pytest.fixture
def started(tmp_path: Path) -> Start:
    """What the entry point starts in an environment: the words, with those of tini."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("java", "tini", "spark-submit"):
        (programs / name).write_text(RECORDS)
        (programs / name).chmod(0o755)
    record = tmp_path / "record"

    def start(environment: dict[str, str], *words: str) -> list[str]:
        path = f"{programs}:{os.environ['PATH']}"
        clean = {"PATH": path, "RECORD": str(record), "SPARK_HOME": "/opt/spark", **environment}
        subprocess.run([str(ENTRY_POINT), *words], env=clean, cwd=tmp_path, timeout=20, check=True)
        return record.read_text().split("\0")[:-1]

    return start


def test_executor_starts_spark_s_backend(started: Start, tmp_path: Path) -> None:
    words = started(POD | {"SPARK_CLASSPATH": "/more/*", "HADOOP_CONF_DIR": "/hadoop"}, "executor")
    assert words == [
        *("tini", "-s", "--", "java"),
        *(f"-Dnumber={number}" for number in range(11)),
        "-Dwords=two words",
        *("-Xms1024m", "-Xmx1024m", "-cp"),
        f"/opt/spark/conf:/hadoop:/more/*:/opt/spark/jars/*:{tmp_path}",
        *(BACKEND, "--driver-url", POD["SPARK_DRIVER_URL"], "--executor-id", "7", "--cores", "2"),
        *("--app-id", "spark-app", "--hostname", "10.0.0.2", "--resourceProfileId", "0", "--podName", "app-exec-7"),
    ]


def test_executor_takes_the_java_that_java_home_names(started: Start) -> None:
    assert started(POD | {"JAVA_HOME": "/java"}, "executor")[3] == "/java/bin/java"


def test_executor_without_its_environment_says_what_is_missing(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "SPARK_HOME": "/opt/spark"}
    done = subprocess.run([str(ENTRY_POINT), "executor"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "SPARK_EXECUTOR_MEMORY: unbound variable" in done.stderr


def test_driver_is_submitted_in_client_mode(started: Start) -> None:
    words = started({"SPARK_DRIVER_BIND_ADDRESS": "10.0.0.3"}, "driver", "--properties-file", "/a b", "job.py", "x")
    assert words[:4] == ["tini", "-s", "--", "/opt/spark/bin/spark-submit"]
    assert words[4:6] == ["--conf", "spark.driver.bindAddress=10.0.0.3"]
    assert words[words.index("--deploy-mode") :] == [
        *("--deploy-mode", "client", "--properties-file", "/a b", "job.py", "x"),
    ]


def test_driver_runs_in_an_image_without_tini_too(started: Start, tmp_path: Path) -> None:
    (tmp_path / "bin" / "tini").unlink()
    for name in ("bash", "basename", "getent", "id"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    environment = {"SPARK_DRIVER_BIND_ADDRESS": "10.0.0.3", "SPARK_HOME": str(tmp_path), "PATH": f"{tmp_path}/bin"}
    assert started(environment, "driver", "job.py")[0] == "spark-submit"


def test_anything_else_is_run_as_it_is(started: Start) -> None:
    assert started({}, "java", "-version") == ["java", "-version"]


# ------------------------------------------------------------------------------------------ the image
@pytest.fixture
def folder() -> Iterator[Path]:
    """Removed at once, or gigabytes of the last three runs are kept."""
    made = Path(tempfile.mkdtemp(prefix="sparkray-image-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def check(said: str, user: str, python: str) -> None:
    (line,) = [line for line in said.splitlines() if line.startswith("SAID")]
    assert line.split()[1:] == [user, python, "285", "1000", "127.0.0.1"]


def why_not_built() -> str | None:
    lacking = [program for program in ("buildah", "debootstrap") if shutil.which(program) is None]
    if lacking:
        return f"{' and '.join(lacking)} not installed"
    return None if os.geteuid() == 0 else "debootstrap needs root"


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.timeout(2 * BUILD_S)
@pytest.mark.skipif(why_not_built() is None, reason="the whole image is built, below")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="the image has Python 3.11 or newer, and its steps ask for it")
def test_the_steps_that_need_no_root_run_in_a_folder(folder: Path) -> None:
    """With `/opt` there. What is left out: the Debian packages and the user."""
    (folder / "bin").mkdir()
    (folder / "bin" / "tini").write_text('#!/bin/bash\nshift 2\nexec "$@"\n')
    (folder / "bin" / "tini").chmod(0o755)
    (folder / "bin" / "python3").symlink_to(sys.executable)
    environment = {"PATH": f"{folder}/bin:{os.environ['PATH']}"}

    def moved(words: str) -> str:
        return words.replace("/opt/", f"{folder}/opt/")

    def valued(words: str) -> str:
        return re.sub(r"\$\{?(\w+)\}?", lambda found: environment[found[1]], moved(words))

    left_out = []
    for name, words in steps():
        if name in ("ENV", "ARG"):
            environment |= dict(word.split("=", 1) for word in shlex.split(valued(words)))
        elif name == "COPY":
            *sources, target = moved(words).split()
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, target)
                else:
                    if target.endswith("/"):
                        Path(target).mkdir(exist_ok=True)
                    shutil.copy(ROOT / source, target)
        elif name == "RUN" and re.search("apt-get|useradd", words):
            left_out.append(words)
        elif name == "RUN":
            (folder / "opt").mkdir(exist_ok=True)
            said_by(["bash", "-euc", moved(words)], environment)
    assert len(left_out) == 2
    (folder / "job.py").write_text(PROGRAM)
    command = [f"{folder}/opt/entrypoint.sh", *DRIVER, str(folder / "job.py")]
    user = said_by([sys.executable, "-c", "import getpass; print(getpass.getuser())"]).strip()
    check(said_by(command, environment | LOOPBACK), user, f"{folder}/opt/venv/bin/python")


class Buildah:
    """With its images and containers in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._command = ["buildah", "--root", f"{folder}/images", "--runroot", f"{folder}/run"]

    def __call__(self, *words: str) -> str:
        return said_by([*self._command, *words])

    def end(self) -> None:
        self("rm", "--all")
        self("rmi", "--all", "--force")


def pip_mounts(folder: Path) -> list[str]:
    """This pip's settings for the one in the image, and the files that they name, as volumes: nothing of it stays."""
    lines = said_by([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    settings: dict[str, str] = {}
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):  # the environment's go over the files'
        name, _, value = line.partition("=")
        if name.startswith((":env:.", "global.")):
            settings[name.partition(".")[2]] = ast.literal_eval(value)
    mounts = []
    for name, value in settings.items():
        if value.startswith("/") and Path(value).exists():
            mounts += ["--volume", f"{Path(value).resolve()}:/run/given/{name}:ro"]
            settings[name] = f"/run/given/{name}"
    (folder / "pip.conf").write_text("\n".join(["[global]", *(f"{n} = {v}" for n, v in settings.items()), ""]))
    return [*mounts, "--volume", f"{folder}/pip.conf:/etc/pip.conf:ro"]


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.timeout(2 * BUILD_S)
@pytest.mark.skipif(why_not_built() is not None, reason=str(why_not_built()))
def test_the_image_is_built_and_runs_a_driver(folder: Path) -> None:
    base = dict(word.split("=", 1) for name, word in steps() if name == "ARG")["BASE"]
    suite = re.fullmatch(r"debian:(\w+)-slim", base)
    assert suite is not None
    buildah = Buildah(folder)
    plain = ["--isolation", "chroot"]
    try:
        said_by(["debootstrap", "--variant=minbase", suite[1], f"{folder}/debian", *debian_mirror()])
        container = buildah("from", "scratch").strip()
        buildah("add", container, f"{folder}/debian", "/")
        buildah("commit", container, f"docker.io/library/{base}")
        ignored = ["--ignorefile", f"{DOCKERFILE}.dockerignore"]
        network = ["--network", "host", *pip_mounts(folder)]
        image = ["--tag", "localhost/sparkray:test", "--pull-never"]
        buildah("bud", *plain, *network, *ignored, *image, "--file", str(DOCKERFILE), str(ROOT))

        (folder / "job.py").write_text(PROGRAM)
        (folder / "job.py").chmod(0o644)
        container = buildah("from", "--pull-never", "localhost/sparkray:test").strip()
        loopback = [word for name, value in LOOPBACK.items() for word in ("--env", f"{name}={value}")]
        mount = ["--volume", f"{folder}/job.py:/run/job.py:ro"]
        words = ["/opt/entrypoint.sh", *DRIVER, "/run/job.py"]
        check(buildah("run", *plain, *loopback, *mount, container, *words), "spark", "/opt/venv/bin/python")
    finally:
        buildah.end()


def debian_mirror() -> list[str]:
    """The one that this machine uses, if it is a Debian."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Origin: Debian", "Label: Debian"]
    return said_by(command).split()[:1] if shutil.which("apt-get") else []
