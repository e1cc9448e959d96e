"""runtime_env through the public API, on real processes: variables, folders, modules, hooks, and what fails."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray.exceptions import RayActorError, RuntimeEnvSetupError
from sparkray.runtime_env import RuntimeEnv, RuntimeEnvConfig


def _variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


@pytest.fixture(scope="module")
def look(ray: Any) -> Any:
    return ray.remote(_variables)


# ---------------------------------------------------------------------------------- variables
def test_variables_are_set_in_the_worker_and_nowhere_else(ray: Any, look: Any) -> None:
    with_one = look.options(runtime_env={"env_vars": {"SR_A": "1"}})
    assert ray.get(with_one.remote("SR_A")) == ["1"]
    assert "SR_A" not in os.environ
    assert ray.get([look.remote("SR_A") for _ in range(20)]) == [[None]] * 20
    assert ray.get([with_one.remote("SR_A") for _ in range(20)]) == [["1"]] * 20


def test_tasks_of_different_environments_never_share_a_process(ray: Any) -> None:
    @ray.remote
    def who(seen: str | None) -> tuple[int, bool]:
        return os.getpid(), os.environ.get("SR_COLOUR") == seen

    calls = []
    for _ in range(15):
        calls += [
            who.remote(None),
            who.options(runtime_env={"env_vars": {"SR_COLOUR": "red"}}).remote("red"),
            who.options(runtime_env={"env_vars": {"SR_COLOUR": "blue"}}).remote("blue"),
        ]
    answers = ray.get(calls)
    assert all(right for _, right in answers)
    pids = [{pid for pid, _ in answers[kind::3]} for kind in range(3)]
    assert not pids[0] & pids[1]
    assert not pids[0] & pids[2]
    assert not pids[1] & pids[2]


def test_a_child_merges_over_its_parent_and_none_takes_away(ray: Any, look: Any) -> None:
    @ray.remote(runtime_env={"env_vars": {"SR_A": "parent", "SR_B": "parent", "SR_C": "parent"}})
    def parent() -> Any:
        plain = look.remote("SR_A", "SR_B", "SR_C")
        laid_over = look.options(runtime_env={"env_vars": {"SR_A": "child", "SR_B": None, "SR_C": "${SR_C}+child"}})
        return ray.get([plain, laid_over.remote("SR_A", "SR_B", "SR_C")])

    assert ray.get(parent.remote()) == [["parent"] * 3, ["child", None, "parent+child"]]


def test_an_inherited_variable_can_be_referred_to_and_taken_away(ray: Any, look: Any) -> None:
    env = {"PATH": "/somewhere:${PATH}", "HOME": None, "SR_X": "${SR_NOT_THERE}!"}
    path, home, other = ray.get(look.options(runtime_env={"env_vars": env}).remote("PATH", "HOME", "SR_X"))
    assert path == f"/somewhere:{os.environ['PATH']}"
    assert home is None
    assert other == "!"


def test_actors_have_them_and_what_they_submit_inherits_them(ray: Any, look: Any) -> None:
    class Toy:
        def look(self) -> Any:
            return os.environ.get("SR_A"), ray.get(look.remote("SR_A"))

    actor_class: Any = ray.remote(Toy)

    actor = actor_class.options(runtime_env={"env_vars": {"SR_A": "actor"}}).remote()
    assert ray.get(actor.look.remote()) == ("actor", ["actor"])
    assert ray.get(actor_class.remote().look.remote()) == (None, [None])


def test_a_restarted_actor_has_its_environment_again(ray: Any) -> None:
    class Toy:
        def look(self) -> tuple[str | None, int]:
            return os.environ.get("SR_A"), os.getpid()

    actor_class: Any = ray.remote(max_restarts=1, runtime_env={"env_vars": {"SR_A": "again"}})(Toy)

    actor = actor_class.remote()
    value, pid = ray.get(actor.look.remote())
    assert value == "again"
    ray.kill(actor, no_restart=False)
    new = pid
    while new == pid:  # a call made right after the kill may find the former life, or none
        with contextlib.suppress(RayActorError):
            value, new = ray.get(actor.look.remote(), timeout=30)
    assert value == "again"


def test_the_context_tells_the_environment(ray: Any) -> None:
    @ray.remote(runtime_env=RuntimeEnv(env_vars={"SR_A": "1"}))
    def tell() -> Any:
        context = ray.get_runtime_context()
        return context.runtime_env, context.get_runtime_env_string()

    env, text = ray.get(tell.remote())
    assert env == {"env_vars": {"SR_A": "1"}}
    assert isinstance(env, RuntimeEnv)
    assert json.loads(text) == env
    assert ray.get_runtime_context().runtime_env == {}


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("env", TypeError, "must be a dict"),
        ({"env_vars": ["A"]}, TypeError, "must be a dict of names"),
        ({"env_vars": {"A": 1}}, TypeError, "'A'.*must be a str"),
        ({"env_vars": {1: "A"}}, TypeError, "names that are str"),
        ({"env_vars": {"A=B": "1"}}, ValueError, "cannot be in an environment"),
        ({"colour": "red"}, ValueError, "no field 'colour'.*env_vars"),
        ({"pip": ["numpy"]}, ValueError, "no 'pip' yet: install what the workers need"),
        ({"conda": "x"}, ValueError, "no 'conda' yet"),
        ({"uv": ["x"]}, ValueError, "no 'uv' yet"),
        ({"image_uri": "x"}, ValueError, "no 'image_uri' yet"),
        ({"working_dir": "/no/such/folder"}, ValueError, "neither a folder nor a .zip"),
        ({"working_dir": 1}, TypeError, "must be a path"),
        ({"working_dir": "s3://bucket/x.zip"}, ValueError, "remote address"),
        ({"py_modules": "folder"}, TypeError, "list of paths"),
        ({"py_modules": ["/no/such/folder"]}, ValueError, "neither a folder nor"),
        ({"py_modules": [sys]}, ValueError, "module sys is not one folder"),
        ({"excludes": "x"}, TypeError, "list of patterns"),
        ({"worker_process_setup_hook": 1}, TypeError, "must be a function"),
        ({"worker_process_setup_hook": "name"}, ValueError, "module.function"),
        ({"config": {"what": 1}}, ValueError, "no 'what'"),
        ({"config": {"setup_timeout_seconds": 0}}, ValueError, "above 0"),
        ({"config": {"setup_timeout_seconds": "1"}}, TypeError, "number of seconds"),
    ],
)
def test_what_cannot_be_is_refused_at_once(ray: Any, look: Any, given: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        look.options(runtime_env=given)
    with pytest.raises(error, match=words):
        ray.remote(runtime_env=given)(_variables)


# ---------------------------------------------------------------------------------- folders
@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "pkg").mkdir(parents=True)
    (folder / "sr_module.py").write_text("WHERE = 'project'\n")
    (folder / "pkg" / "__init__.py").write_text("VALUE = 7\n")
    (folder / "data.txt").write_text("some data")
    (folder / "secret.txt").write_text("")
    (folder / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (folder / "run.sh").chmod(0o755)
    (folder / ".gitignore").write_text("secret.txt\n")
    return folder


def test_working_dir_is_the_current_folder_and_first_on_the_path(ray: Any, project: Path) -> None:
    @ray.remote(runtime_env={"working_dir": str(project), "excludes": ["*.log"]})
    def use() -> Any:
        import subprocess

        pkg = importlib.import_module("pkg")
        sr_module = importlib.import_module("sr_module")

        ran = subprocess.run(["./run.sh"], capture_output=True, text=True, check=True).stdout
        child = subprocess.run([sys.executable, "-c", "import sr_module"], cwd="/", check=False).returncode
        text = Path("data.txt").read_text()
        return sr_module.WHERE, pkg.VALUE, text, sorted(os.listdir()), ran, child, sys.path[0] == os.getcwd()

    (project / "big.log").write_text("x")
    where, value, text, there, ran, child, first = ray.get(use.remote())
    assert (where, value, text, ran, child, first) == ("project", 7, "some data", "ran\n", 0, True)
    assert set(there) - {"__pycache__"} == {".gitignore", "data.txt", "pkg", "run.sh", "sr_module.py"}


def test_a_changed_folder_is_another_environment_and_an_unchanged_one_is_packed_once(ray: Any, project: Path) -> None:
    @ray.remote
    def where() -> tuple[str, str]:
        sr_module = importlib.import_module("sr_module")

        return sr_module.WHERE, os.getcwd()

    env = {"working_dir": str(project)}
    first = ray.get(where.options(runtime_env=env).remote())
    assert ray.get(where.options(runtime_env=env).remote()) == first
    (project / "sr_module.py").write_text("WHERE = 'changed it'\n")
    second = ray.get(where.options(runtime_env=env).remote())
    assert (first[0], second[0]) == ("project", "changed it")
    assert first[1] != second[1]


def test_working_dir_as_a_zip(ray: Any, project: Path, tmp_path: Path) -> None:
    path = tmp_path / "it.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(project / "sr_module.py", "sr_module.py")

    @ray.remote(runtime_env={"working_dir": str(path)})
    def use() -> Any:
        sr_module = importlib.import_module("sr_module")

        return sr_module.WHERE

    assert ray.get(use.remote()) == "project"


def test_py_modules_are_importable_under_their_names(ray: Any, project: Path, tmp_path: Path) -> None:
    single = tmp_path / "sr_single.py"
    single.write_text("X = 1\n")
    wheel = tmp_path / "sr_wheel-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("sr_wheel/__init__.py", "Y = 2\n")

    @ray.remote(runtime_env={"py_modules": [str(project / "pkg"), str(single), str(wheel)]})
    def use() -> Any:
        pkg = importlib.import_module("pkg")
        sr_single = importlib.import_module("sr_single")
        sr_wheel = importlib.import_module("sr_wheel")

        return pkg.VALUE, sr_single.X, sr_wheel.Y, os.getcwd()

    assert ray.get(use.remote()) == (7, 1, 2, os.getcwd())


def test_a_module_object_is_a_py_module(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder that the driver found by itself, and that workers, which started earlier, do not look in."""
    (tmp_path / "sr_late").mkdir()
    (tmp_path / "sr_late" / "__init__.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    sr_late = importlib.import_module("sr_late")

    @ray.remote(runtime_env={"py_modules": [sr_late]})
    def use() -> Any:
        sr_late = importlib.import_module("sr_late")

        return sr_late.answer()

    assert ray.get(use.remote()) == 42


def test_children_inherit_the_folder_and_its_address_can_be_passed_on(ray: Any, project: Path) -> None:
    @ray.remote
    def child() -> Any:
        sr_module = importlib.import_module("sr_module")

        return sr_module.WHERE

    @ray.remote(runtime_env={"working_dir": str(project)})
    def parent() -> Any:
        env = ray.get_runtime_context().runtime_env
        return ray.get(child.remote()), env

    value, env = ray.get(parent.remote())
    assert value == "project"
    assert env["working_dir"].startswith("pkg://")
    assert ray.get(child.options(runtime_env=env).remote()) == "project"


def test_a_folder_that_went_between_is_told_of_at_the_submission(ray: Any, look: Any, project: Path) -> None:
    task = look.options(runtime_env={"working_dir": str(project)})
    project.rename(project.with_name("elsewhere"))
    with pytest.raises(ValueError, match="is not there"):
        task.remote("A")


# ---------------------------------------------------------------------------------- hooks, and what fails
def test_the_hook_runs_once_in_each_worker_before_anything_else(ray: Any, tmp_path: Path) -> None:
    counted = tmp_path / "counted"

    def hook() -> None:
        with counted.open("a") as file:
            file.write(f"{os.getpid()} {os.environ['SR_A']}\n")

    @ray.remote(runtime_env={"worker_process_setup_hook": hook, "env_vars": {"SR_A": "1"}})
    def use() -> int:
        return os.getpid()

    pids = set(ray.get([use.remote() for _ in range(10)]))
    lines = counted.read_text().split("\n")[:-1]
    assert len(lines) == len(set(lines))
    assert {f"{pid} 1" for pid in pids} <= set(lines)


def test_a_hook_by_name(ray: Any, project: Path) -> None:
    (project / "sr_hook.py").write_text("import os\ndef go():\n    os.environ['SR_HOOK'] = 'went'\n")
    env = {"working_dir": str(project), "worker_process_setup_hook": "sr_hook.go"}
    assert ray.get(ray.remote(_variables).options(runtime_env=env).remote("SR_HOOK")) == ["went"]


def test_a_failing_set_up_fails_every_call_with_its_reason(ray: Any, look: Any) -> None:
    def hook() -> None:
        raise OSError("no licence server")

    env = {"worker_process_setup_hook": hook}
    refs = [look.options(runtime_env=env).remote("A") for _ in range(20)]
    for ref in refs:
        with pytest.raises(RuntimeEnvSetupError, match="no licence server"):
            ray.get(ref)

    class Toy:
        def look(self) -> None: ...

    actor_class: Any = ray.remote(runtime_env=env)(Toy)

    actor = actor_class.remote()
    for _ in range(2):
        with pytest.raises(RuntimeEnvSetupError, match="no licence server"):
            ray.get(actor.look.remote())
    assert ray.get(look.remote("SR_A")) == [None]  # and nobody else's


def test_a_hook_that_ends_the_process_fails_the_call(ray: Any, look: Any) -> None:
    for ending, words in ((lambda: os._exit(3), "exit code 3"), (lambda: sys.exit("enough"), "enough")):
        with pytest.raises(RuntimeEnvSetupError, match=words):
            ray.get(look.options(runtime_env={"worker_process_setup_hook": ending}).remote("A"))


def test_a_set_up_that_takes_too_long_is_given_up(ray: Any, look: Any) -> None:
    def hook() -> None:
        import time

        time.sleep(600)

    env = {"worker_process_setup_hook": hook, "config": RuntimeEnvConfig(setup_timeout_seconds=0.3)}
    with pytest.raises(RuntimeEnvSetupError, match=r"longer than 0\.3 s"):
        ray.get(look.options(runtime_env=env).remote("A"))


def test_a_broken_zip_fails_the_call(ray: Any, look: Any, tmp_path: Path) -> None:
    path = tmp_path / "broken.zip"
    path.write_bytes(b"this is no zip")
    with pytest.raises(RuntimeEnvSetupError, match=r"no \.zip that can be unpacked"):
        ray.get(look.options(runtime_env={"working_dir": str(path)}).remote("A"))


# ---------------------------------------------------------------------------------- threads
def _threads() -> tuple[str | None, set[int]]:
    import numpy  # noqa: F401 - its BLAS is what is asked about
    from threadpoolctl import threadpool_info

    return os.environ.get("OMP_NUM_THREADS"), {pool["num_threads"] for pool in threadpool_info()}


@pytest.mark.skipif(any(name in os.environ for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")), reason="it is set")
def test_threads_of_libraries_follow_num_cpus_unless_the_user_set_them(ray: Any) -> None:
    threads = ray.remote(_threads)
    for cpus, count in ((1, 1), (2, 2), (1, 1), (0.5, 1), (0, 1), (3, 3)):
        assert ray.get(threads.options(num_cpus=cpus).remote()) == (str(count), {count})

    class Toy:
        def threads(self) -> Any:
            return _threads()

    actor_class: Any = ray.remote(Toy)

    assert ray.get(actor_class.options(num_cpus=2).remote().threads.remote()) == ("2", {2})
    assert ray.get(actor_class.remote().threads.remote()) == ("1", {1})
    chosen = threads.options(runtime_env={"env_vars": {"OMP_NUM_THREADS": "3"}})
    assert ray.get(chosen.remote()) == ("3", {3})
    assert ray.get(chosen.options(num_cpus=2).remote()) == ("3", {3})


# ---------------------------------------------------------------------------------- the job's (sessions of their own)
@pytest.fixture
def no_session() -> Iterator[None]:
    sparkray.shutdown()
    yield
    sparkray.shutdown()


class TestJob:
    """Last in this file: these end the module's session."""

    def test_the_jobs_environment_is_everybodys(self, no_session: None, project: Path) -> None:
        env = {"env_vars": {"SR_JOB": "job", "SR_A": "job"}, "working_dir": str(project)}
        sparkray.init(num_cpus=1, object_store_memory=64 << 20, runtime_env=env)

        def use() -> Any:
            sr_module = importlib.import_module("sr_module")

            return sr_module.WHERE, _variables("SR_JOB", "SR_A")

        task = sparkray.remote(use)
        assert sparkray.get(task.remote()) == ("project", ["job", "job"])
        laid_over = task.options(runtime_env={"env_vars": {"SR_A": "task"}})
        assert sparkray.get(laid_over.remote()) == ("project", ["job", "task"])
        assert sparkray.get_runtime_context().runtime_env["env_vars"] == env["env_vars"]
        assert "SR_JOB" not in os.environ

    def test_an_impossible_job_does_not_start(self, no_session: None, project: Path) -> None:
        with pytest.raises(ValueError, match="neither a folder"):
            sparkray.init(num_cpus=1, runtime_env={"working_dir": "/no/such/folder"})
        with pytest.raises(TypeError, match="must be a str"):
            sparkray.init(num_cpus=1, runtime_env={"env_vars": {"A": 1}})
        assert not sparkray.is_initialized()

    def test_a_folder_too_large_ends_the_start_and_leaves_nothing(
        self, no_session: None, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sparkray.packaging.PACKAGE_LIMIT_BYTES", 100)
        with pytest.raises(ValueError, match="The largest:"):
            sparkray.init(num_cpus=1, runtime_env={"working_dir": str(project)})
        assert not sparkray.is_initialized()
