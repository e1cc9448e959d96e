"""Cases of Ray's test_runtime_env_env_vars, _working_dir and test_runtime_env: what surrounds a task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sparkray.runtime_env import RuntimeEnv, RuntimeEnvConfig


def test_an_empty_working_dir_is_an_empty_folder(ray: Any, tmp_path: Path) -> None:
    @ray.remote
    def listed() -> list[str]:
        return os.listdir()

    @ray.remote
    class Lists:
        def listed(self) -> list[str]:
            return os.listdir()

    for given in (str(tmp_path), tmp_path):
        env = {"working_dir": given}
        assert ray.get(listed.options(runtime_env=env).remote()) == []
    assert ray.get(Lists.options(runtime_env=env).remote().listed.remote()) == []


@pytest.mark.parametrize(
    ("env", "error"),
    [
        ({"working_dir": 10}, TypeError),
        ({"working_dir": "/does/not/exist"}, ValueError),
        ({"working_dir": "does_not_exist"}, ValueError),
        ({"working_dir": "https://no_dot_zip"}, ValueError),
        ({"py_modules": [10]}, TypeError),
        ({"py_modules": "."}, TypeError),
        ({"py_modules": ["/does/not/exist"]}, ValueError),
        ({"env_vars": {"a": 1}}, TypeError),
        ({"env_vars": ["a"]}, TypeError),
        ({"of nobody": 1}, ValueError),
    ],
)
def test_an_environment_that_cannot_be_is_refused_when_it_is_given(ray: Any, env: Any, error: type) -> None:
    with pytest.raises(error):
        ray.remote(runtime_env=env)(os.getcwd).remote()


def test_workers_are_kept_for_their_environment_and_shared_with_no_other(ray: Any) -> None:
    def look() -> tuple[str | None, int]:
        return os.environ.get("OF_THIS_TEST"), os.getpid()

    one, other = ray.remote(look), ray.remote(look)

    def ask(function: Any, value: str | None) -> tuple[str | None, int]:
        env = {} if value is None else {"runtime_env": {"env_vars": {"OF_THIS_TEST": value}}}
        return ray.get(function.options(**env).remote())  # type: ignore[no-any-return]

    seen = [(value, *ask(function, value)) for value in (None, "1", "2", None, "1", "2") for function in (one, other)]

    assert all(asked == found for asked, found, _ in seen)
    pids = {value: {pid for asked, _, pid in seen if asked == value} for value in (None, "1", "2")}
    assert not pids["1"] & pids["2"]
    assert not pids[None] & (pids["1"] | pids["2"])
    assert len(pids["1"]) == len(pids["2"]) == 1


def test_an_environment_as_an_object(ray: Any) -> None:
    env = RuntimeEnv(env_vars={"OF_THIS_TEST": "c"}, config=RuntimeEnvConfig(setup_timeout_seconds=10))

    assert (env["env_vars"], env.env_vars(), env.to_dict()["config"]["setup_timeout_seconds"]) == (
        {"OF_THIS_TEST": "c"},
        {"OF_THIS_TEST": "c"},
        10,
    )
    assert ray.get(ray.remote(runtime_env=env)(os.getenv).remote("OF_THIS_TEST")) == "c"


@pytest.mark.parametrize("keyword", ["_labels", "_num_objects_per_yield", "object_store_memory"])
def test_a_keyword_of_rays_that_is_not_there_is_refused_with_the_reason(ray: Any, keyword: str) -> None:
    with pytest.raises(ValueError, match=f"'{keyword}' is not there for a task: "):
        ray.remote(**{keyword: 2})(len)
