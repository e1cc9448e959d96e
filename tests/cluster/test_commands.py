"""What `sparkray status`, `list`, `memory`, `logs`, `stack` and `kill-actor` tell of a session of another process."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparkray.cli import app
from sparkray.node_command import started_nodes
from tests.cluster.conftest import Driver, sparkray_command, start_head

LIMIT_S = 30.0


def run(*words: str, code: int = 0) -> str:
    """The command in this process: what it printed, both streams, if it ends with that code."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def told(*words: str) -> Any:
    return json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)


def wait_for(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {LIMIT_S:g} s: {what}"
        time.sleep(0.05)
    return found


PROGRAM = """
    import os, sys, time, re
    ray.init(namespace="team")
    @ray.remote
    class Counter:
        def add(self, value):
            print("adding", value)
            print("trouble", file=sys.stderr)
            return os.getpid()
    @ray.remote
    def nap(seconds):
        time.sleep(seconds)
    @ray.remote
    def dig():
        re.match("(a+)+b", "a" * 60)  # native code that holds the interpreter, for ever
    counter = Counter.options(name="counter", num_cpus=1).remote()
    pid = ray.get(counter.add.remote(7))
    big = ray.put(b"x" * (5 << 20))
"""


@pytest.fixture
def driver(head: str, drivers: Callable[..., Driver]) -> Driver:
    made = drivers()
    made.do(PROGRAM)
    return made


@pytest.fixture(scope="module")
def session(module_base_folder: Path) -> str:
    return start_head()


@pytest.fixture(scope="module")
def lasting(session: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A `driver` for all tests that only look."""
    made = Driver(tmp_path_factory.mktemp("driver"))
    made.do(PROGRAM)
    yield made
    made.end()


def test_status_tells_nodes_use_demands_and_drivers(driver: Driver, head: str) -> None:
    driver.do("refs = [nap.remote(60) for _ in range(3)]")
    facts = wait_for(lambda: (now := told("status"))["demands"] and now, "a demand is seen")

    (node,) = facts["nodes"]
    assert (node["total"]["CPU"], node["available"].get("CPU", 0)) == (2.0, 0)
    assert node["store_used"] > 5 << 20
    assert node["actors"] == 1
    assert [demand["needs"] for demand in facts["demands"]] == [{"CPU": 1.0}]
    assert [job["namespace"] for job in facts["jobs"]] == ["team"]
    assert [one["head"] for one in facts["sessions_here"]] == [head]
    text = run("status")
    assert "CPU 2/2" in text
    assert "Waiting for" in text
    assert head in text
    assert len(told("list", "jobs")) == 1  # to look is no job


def test_lists_and_summaries_have_what_the_driver_made(lasting: Driver) -> None:
    assert [node["state"] for node in told("list", "nodes")] == ["ALIVE"]
    (actor,) = told("list", "actors", "--filter", "state=ALIVE", "--filter", "class_name!=Other")
    assert (actor["name"], actor["ray_namespace"], actor["job_id"]) == ("counter", "team", "01000000")
    assert told("list", "actors", "--filter", "state=DEAD") == []
    assert {"Counter.add"} <= {task["name"] for task in told("list", "tasks")}
    assert max(row["object_size"] for row in told("list", "objects")) > 5 << 20
    assert actor["pid"] in [worker["pid"] for worker in told("list", "workers")]
    (job,) = told("list", "jobs")
    assert (job["status"], job["driver_info"]["pid"]) == ("RUNNING", str(lasting.process.pid))
    assert told("summary", "actors")["cluster"]["total_actors"] == 1
    for kind in ("nodes", "actors", "tasks", "objects", "workers", "jobs"):
        assert "_id" in run("list", kind)
        assert "_id" in run("list", kind, "--detail")
    for kind in ("tasks", "actors", "objects"):
        assert f"total_{kind}" in run("summary", kind)


def test_groups_environments_and_events_are_listed_and_one_thing_is_told_of(lasting: Driver) -> None:
    lasting.do("""
        from sparkray.util import placement_group
        group = placement_group([{"CPU": 0.5}], name="mine")
        assert group.wait(30)
        env = ray.remote(lambda: os.environ["WHICH"]).options(num_cpus=0.5, runtime_env={"env_vars": {"WHICH": "one"}})
        assert ray.get(env.remote()) == "one"
    """)
    (group,) = told("list", "placement-groups")
    assert (group["name"], group["state"]) == ("mine", "CREATED")
    assert [one["runtime_env"]["env_vars"] for one in told("list", "runtime-envs")] == [{"WHICH": "one"}]
    assert told("list", "cluster-events")
    for kind in ("placement-groups", "runtime-envs", "cluster-events"):
        assert f" {kind}" in run("list", kind)
    for kind, column in (
        ("placement-groups", "placement_group_id"),
        ("actors", "actor_id"),
        ("nodes", "node_id"),
        ("workers", "worker_id"),
        ("jobs", "job_id"),
        ("objects", "object_id"),
    ):
        some = told("list", kind)[0]
        assert some[column] in [one[column] for one in told("get", kind, some[column])]
        assert column in run("get", kind, some[column])
        assert "shows what there is" in run("get", kind, "00" * 24, code=1)


def test_memory_names_the_holder(lasting: Driver) -> None:
    facts = told("memory")
    largest = facts["objects"][0]
    assert (largest["pid"], largest["type"]) == (lasting.process.pid, "DRIVER")
    assert facts["stores"][0]["used"] > 5 << 20
    assert re.search(r"\b5(\.0\d*)? MiB", run("memory"))  # beside the value, a page at most so that it lies well
    assert "--limit shows them" in run("memory", "--limit", "1") or len(facts["objects"]) == 1


def test_logs_are_listed_and_shown_by_name_and_by_actor(lasting: Driver) -> None:
    (actor,) = told("list", "actors")
    names = {log["name"] for log in told("logs")}
    assert {"raylet.log", "head.log"} <= names
    assert not [name for name in names if name.endswith(".stack")]
    assert run("logs", "--actor-id", actor["actor_id"]) == "adding 7\n"
    assert run("logs", "--pid", str(actor["pid"]), "--err") == "trouble\n"
    assert "adding 7" in run("logs", "worker*.out")
    assert "no node has a log 'nothing'" in run("logs", "nothing", code=1)
    assert "no living node" in run("logs", "--node-id", "ff" * 8, code=1)


@pytest.mark.slow
def test_stacks_show_where_sleepers_and_native_code_are(driver: Driver) -> None:
    driver.do("ref = nap.remote(60)")
    wait_for(lambda: "in nap" in run("stack"), "the sleeper is seen")
    driver.do("ray.cancel(ref); hidden = dig.remote()")
    wait_for(lambda: told("list", "tasks", "--filter", "name=dig", "--filter", "state=RUNNING"), "it digs")

    text = run("stack")

    assert "in dig" in text
    assert f"=== driver (pid {driver.process.pid})" in text
    assert "no driver or worker" in run("stack", "--pid", "1", code=1)


def test_the_timeline_has_the_calls(lasting: Driver, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert f"are in {path}" in run("timeline", str(path))
    assert "Counter.add" in {event["name"] for event in json.loads(path.read_text())}
    picture = tmp_path / "chart.png"
    assert f"calls are in {picture}" in run("timeline", "--png", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_actor_is_killed_by_name_or_id(driver: Driver) -> None:
    assert "say which" in run("kill-actor", code=2)
    assert "no such living actor" in run("kill-actor", "--name", "nobody", code=1)
    assert "no such living actor" in run("kill-actor", "--name", "counter", "--namespace", "other", code=1)
    assert "was killed" in run("kill-actor", "--name", "counter", "--namespace", "team")
    assert "ActorDiedError" in driver.attempt("ray.get(counter.add.remote(1), timeout=30)")["error"]
    assert "no such living actor" in run("kill-actor", "--name", "counter", code=1)


def test_a_session_elsewhere_is_looked_into_with_its_key_and_nothing_is_left(
    lasting: Driver, session: str, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    (node,) = started_nodes()
    key = tmp_path / "key"
    key.write_text(Path(node.key_file).read_text())

    seen = sparkray_command("list", "actors", f"--address={session}", f"--key-file={key}", environment=elsewhere)
    refused = sparkray_command("status", f"--address={session}", environment=elsewhere)

    assert seen.returncode == 0, seen.stderr
    assert "Counter" in seen.stdout
    assert refused.returncode == 3
    assert "SPARKRAY_KEY" in refused.stderr
    assert not list(Path(elsewhere["SPARKRAY_BASE_FOLDER"]).glob("*/*"))


@pytest.mark.parametrize(
    "words", [["status"], ["list", "nodes"], ["summary", "tasks"], ["memory"], ["logs"], ["stack"], ["timeline"]]
)
def test_without_a_session_every_command_says_so(base_folder: Path, words: list[str]) -> None:
    assert "Could not find any running sparkray session" in run(*words, code=3)
    assert "host:port" in run(*words, "--address", "nonsense", code=2)


def test_a_wrong_command_line_is_told_so(lasting: Driver) -> None:
    for line in (
        "nonsense",
        "list nonsense",
        "list nodes --filter x",
        "list nodes --filter x=1",
        "list jobs --limit x",
    ):
        run(*line.split(), code=2)


def test_help_and_version() -> None:
    for command in (
        "start",
        "stop",
        "status",
        "list",
        "get",
        "summary",
        "memory",
        "timeline",
        "logs",
        "stack",
        "kill-actor",
    ):
        assert command in run("--help")
        assert "Usage" in run(command, "--help")
    done = sparkray_command("--version")
    assert done.returncode == 0
    assert done.stdout.strip()
