"""`init` takes all of Ray's keywords: each does what it says, or is said to do nothing, or is refused."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray as ray
from sparkray.job_config import JobConfig, LoggingConfig
from sparkray_core.run import object_ref


@pytest.fixture(autouse=True)
def no_session() -> Iterator[None]:
    ray.shutdown()
    level = logging.getLogger().level
    yield
    ray.shutdown()
    logging.getLogger().setLevel(level)
    for name in ("sparkray", "sparkray_core"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"num_cpus": "2"}, TypeError, "num_cpus must be a number"),
        ({"num_cpus": -1}, ValueError, "num_cpus must be finite and not below 0"),
        ({"num_gpus": float("nan")}, ValueError, "num_gpus"),
        ({"resources": ["a"]}, TypeError, "resources must be a dict"),
        ({"resources": {"CPU": 1}}, ValueError, "num_cpus"),
        ({"resources": {"a": "much"}}, TypeError, r"resources\['a'\]"),
        ({"labels": {"a": 1}}, TypeError, "labels must be strings"),
        ({"labels": "a"}, TypeError, "labels must be a Mapping"),
        ({"object_store_memory": "big"}, TypeError, "object_store_memory must be"),
        ({"object_store_memory": 1.5}, TypeError, "object_store_memory must be"),
        ({"object_store_memory": 10}, ValueError, "at least 1048576"),
        ({"namespace": 3}, TypeError, "namespace must be a str"),
        ({"namespace": ""}, ValueError, "namespace must not be empty"),
        ({"address": 6379}, TypeError, "address must be a str"),
        ({"log_to_driver": "no"}, TypeError, "log_to_driver must be a bool"),
        ({"ignore_reinit_error": None}, TypeError, "ignore_reinit_error"),
        ({"job_config": {}}, TypeError, "job_config must be a JobConfig"),
        ({"logging_config": "JSON"}, TypeError, "logging_config must be a LoggingConfig"),
        ({"logging_level": "LOUD"}, ValueError, "logging_level"),
        ({"logging_level": 1.5}, TypeError, "logging_level"),
        ({"logging_format": 1}, TypeError, "logging_format must be a str"),
        ({"_memory": "much"}, TypeError, "_memory must be a int"),
        ({"_system_config": 3}, TypeError, "_system_config must be a Mapping"),
        ({"num_cpu": 3}, RuntimeError, r"Unknown keyword argument\(s\) to init\(\): num_cpu\. Did you mean num_cpus\?"),
        ({"b_c": 3, "a_b": 3}, RuntimeError, r"init\(\): a_b, b_c\."),
    ],
)
def test_an_argument_that_cannot_be_is_refused_before_anything_starts(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ray.init(**arguments)
    assert not ray.is_initialized()


def test_what_has_no_effect_is_said_once_and_what_asks_for_nothing_is_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            dashboard_port=8265,
            _redis_password=None,
            _enable_object_reconstruction=True,
        )
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "init(dashboard_port=...) has no effect",
        "init(_enable_object_reconstruction=...) has no effect",
    ]


def test_rays_hidden_keywords_that_have_a_meaning_have_it() -> None:
    base = f"/tmp/sparkray-{os.getuid()}-y{os.getpid()}"
    hidden: dict[str, Any] = {"_temp_dir": base, "_memory": 5000, "_node_ip_address": "127.0.0.2"}
    context = ray.init(num_cpus=1, object_store_memory="32m", **hidden)
    assert context["session_dir"].startswith(base)
    assert context["node_ip_address"] == "127.0.0.2"
    assert context["address"].startswith("127.0.0.2:")
    assert ray.cluster_resources()["memory"] == 5000
    assert ray.nodes()[0]["ObjectStoreMemory"] == 32 << 20
    ray.shutdown()
    os.rmdir(base)


def test_a_job_config_gives_namespace_lifetime_environment_and_path(tmp_path: Path) -> None:
    (tmp_path / "only_by_search_path.py").write_text("answer = 42\n")
    job = JobConfig(
        ray_namespace="mine",
        default_actor_lifetime="detached",
        runtime_env={"env_vars": {"FROM_JOB": "1"}},
        code_search_path=[str(tmp_path)],
        metadata={"owner": "me"},
    )
    assert job.metadata == {"owner": "me"}
    ray.init(num_cpus=1, job_config=job)
    assert ray.get_runtime_context().namespace == "mine"

    class Cell:
        def look(self) -> tuple[int, str | None]:
            import only_by_search_path  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

            return only_by_search_path.answer, os.environ.get("FROM_JOB")

    made: Any = ray.remote(Cell)
    cell = made.options(name="cell").remote()
    assert ray.get(cell.look.remote()) == (42, "1")
    del cell
    again = ray.get_actor("cell")  # it outlives its handles
    assert ray.get(again.look.remote()) == (42, "1")


def test_what_init_says_wins_over_the_job_config() -> None:
    ray.init(num_cpus=1, namespace="init's", job_config=JobConfig(ray_namespace="job's"))
    assert ray.get_runtime_context().namespace == "init's"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"ray_namespace": ""}, ValueError),
        ({"default_actor_lifetime": "for ever"}, ValueError),
        ({"code_search_path": "/x"}, TypeError),
        ({"metadata": {"a": 1}}, TypeError),
    ],
)
def test_a_job_config_that_cannot_be_is_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        JobConfig(**arguments)


def test_logging_in_json_tells_who_logs_in_driver_and_worker(capfd: pytest.CaptureFixture[str]) -> None:
    config = ray.LoggingConfig(encoding="JSON", log_level="INFO", additional_log_standard_attrs=["name"])
    ray.init(num_cpus=1, logging_config=config)

    @ray.remote
    def speak() -> str:
        logging.getLogger("theirs").info("from %s", "afar", extra={"colour": "red"})
        logging.getLogger("theirs").debug("not this")
        return ray.get_runtime_context().get_worker_id()

    worker = ray.get(speak.remote())
    logging.getLogger("ours").info("from here")
    ray.shutdown()
    lines = [line[line.index("{") :] for line in capfd.readouterr().err.splitlines() if '"from ' in line]
    theirs, ours = (json.loads(line) for line in sorted(lines))
    assert (theirs["message"], theirs["levelname"], theirs["name"]) == ("from afar", "INFO", "theirs")
    assert (theirs["colour"], theirs["worker_id"]) == ("red", worker)
    assert theirs["task_name"].endswith("speak")
    assert len(theirs["task_id"]) == 48
    assert ours["message"] == "from here"
    assert ours["job_id"] == theirs["job_id"]
    assert "task_id" not in ours
    assert not [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]


def test_logging_in_text_keeps_a_traceback_below_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    ray.init(num_cpus=1, logging_config=LoggingConfig(log_level="ERROR"))
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("ours").exception("it went wrong")
    logging.getLogger("ours").warning("not this")
    text = capfd.readouterr().err
    line = text.splitlines()[0]
    assert "ERROR test_init_arguments.py:" in line
    assert " -- it went wrong job_id=" in line
    assert "ValueError: inner" in text
    assert "not this" not in text


@pytest.mark.parametrize(
    "arguments", [{"encoding": "XML"}, {"log_level": "LOUD"}, {"additional_log_standard_attrs": ["colour"]}]
)
def test_a_logging_config_that_cannot_be_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Invalid encoding|log_level|Unknown python logging"):
        LoggingConfig(**arguments)


def test_logging_of_the_driver_is_left_alone_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    ray.init(num_cpus=1)
    assert logging.getLogger("sparkray").handlers == []
    ray.shutdown()
    ray.init(num_cpus=1, configure_logging=False, logging_level="DEBUG")
    assert logging.getLogger("sparkray").handlers == []
    ray.shutdown()
    for _ in range(2):
        ray.init(num_cpus=1, logging_level=logging.INFO, logging_format="<%(levelname)s> %(message)s")
        ray.shutdown()
    logging.getLogger("sparkray.x").info("a word")
    assert capfd.readouterr().err.count("<INFO> a word\n") == 1


def test_log_to_driver_can_be_left_to_its_default() -> None:
    ray.init(num_cpus=1, log_to_driver=None)
    assert object_ref.current is not None
    assert object_ref.current.printer.shown
