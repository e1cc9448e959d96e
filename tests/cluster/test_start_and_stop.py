"""`sparkray start` and `sparkray stop`, as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from glob import glob
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparkray.cli import app
from sparkray.node_command import started_nodes
from sparkray_core.run.processes import Identity, is_alive
from sparkray_core.run.published import BadKey, SessionKey
from tests.cluster.conftest import program, sparkray_command
from tests.marks import slow
from tests.waiting import wait_until

LIMIT_S = 10.0


def keepers() -> list[Identity]:
    return [node.keeper for node in started_nodes()]


def test_a_session_outlives_the_command_and_its_drivers_until_it_is_stopped(head: str, base_folder: Path) -> None:
    for _ in range(2):
        printed = program("""
            import sparkray as ray
            session = ray.init()
            print(session["address"], ray.cluster_resources()["CPU"], ray.get(ray.remote(lambda: 7).remote()))
        """)
        assert printed == [f"{head} 2.0 7"]
    (keeper,) = keepers()

    stopped = sparkray_command("stop")

    assert stopped.returncode == 0, stopped.stderr
    assert "1 nodes stopped" in stopped.stdout
    assert not is_alive(keeper)
    assert list(base_folder.glob("*/*")) == []
    assert sparkray_command("stop").returncode == 0  # nothing to do is no failure


def test_a_further_node_brings_what_it_offers_and_leaves_alone(head: str) -> None:
    done = sparkray_command(
        "start", f"--address={head}", "--num-cpus=1", '--resources={"special": 2}', "--labels=place=here"
    )
    assert done.returncode == 0, done.stderr
    source = """
        import sparkray as ray
        ray.init(address="auto")
        total = ray.cluster_resources()
        there = [node for node in ray.nodes() if node["Labels"].get("place") == "here"]
        print(total["CPU"], total.get("special"), len(there))
    """
    assert program(source) == ["3.0 2.0 1"]
    (further,) = [node for node in started_nodes() if not node.is_head]

    os.kill(further.keeper.pid, signal.SIGTERM)
    wait_until(lambda: program(source) == ["2.0 None 1"] or None, "the head has noticed", limit=LIMIT_S)

    report = sparkray_command("stop")
    assert report.returncode == 0
    assert keepers() == []


@pytest.mark.slow
def test_stop_by_force_leaves_nothing_either(head: str, base_folder: Path) -> None:
    assert sparkray_command("start", f"--address={head}", "--num-cpus=1").returncode == 0
    found = keepers()
    assert len(found) == 2

    stopped = sparkray_command("stop", "--force")

    assert stopped.returncode == 0, stopped.stdout
    assert not any(map(is_alive, found))
    assert list(base_folder.glob("*/*")) == []


def test_without_its_head_the_session_ends_on_all_nodes(head: str, base_folder: Path) -> None:
    assert sparkray_command("start", f"--address={head}", "--num-cpus=1").returncode == 0
    (first,) = [node for node in started_nodes() if node.is_head]

    os.kill(first.keeper.pid, signal.SIGKILL)

    wait_until(lambda: not glob(f"{base_folder}/*/*"), "all nodes are gone", limit=LIMIT_S)


@pytest.mark.parametrize("how", [signal.SIGKILL, *slow(signal.SIGTERM)])
def test_a_blocking_start_ends_with_its_command(base_folder: Path, how: signal.Signals) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "sparkray", "start", "--head", "--port=0", "--num-cpus=1", "--block"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    with command, command.stdout:
        assert "is up" in command.stdout.readline()
        (keeper,) = keepers()
        command.send_signal(how)
        assert command.wait(LIMIT_S) == (0 if how is signal.SIGTERM else -how)
    wait_until(lambda: not is_alive(keeper) and not list(base_folder.glob("*/*")), "the node is gone", limit=LIMIT_S)


def test_what_init_started_is_not_for_stop_and_dies_with_its_driver(base_folder: Path) -> None:
    source = "import sparkray, sys; sparkray.init(num_cpus=1); print(1, flush=True); sys.stdin.read()"
    driver = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    with driver:
        assert driver.stdout.readline() == "1\n"
        stopped = sparkray_command("stop")
        assert "No node" in stopped.stdout
        assert program("import sparkray as r; r.init('auto'); print(r.cluster_resources()['CPU'])") == ["1.0"]
        driver.kill()
    wait_until(lambda: not glob(f"{base_folder}/*/*"), "its session has gone with it", limit=LIMIT_S)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "either --head"),
        (["--head", "--address=127.0.0.1:1"], "either --head"),
        (["--head", "--resources=[1]"], "JSON object"),
        (["--head", "--resources={"], "not JSON"),
        (["--head", '--resources={"CPU": 1}', "--port=0"], "option of its own"),
        (["--head", "--labels=nonsense"], "k=v"),
        (["--head", "--num-cpus=-1", "--port=0"], "negative"),
        (["--address=nonsense"], "host:port"),
    ],
)
def test_a_wrong_command_line_is_refused_with_the_reason(base_folder: Path, words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["start", *words])

    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert keepers() == []


def test_a_taken_port_is_told(base_folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = sparkray_command("start", "--head", "--num-cpus=1", f"--port={other.getsockname()[1]}")

    assert done.returncode == 1
    assert "cannot listen on" in done.stderr
    assert "Traceback" not in done.stderr
    assert keepers() == []


def test_a_node_for_a_head_that_is_not_there_is_told_so_at_once(base_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        done = sparkray_command("start", f"--address=127.0.0.1:{taken.getsockname()[1]}")

    assert done.returncode == 3
    assert "not known" in done.stderr  # no key, so it is not even asked


def test_what_is_written_is_for_its_user_alone(head: str, base_folder: Path) -> None:
    (node,) = started_nodes()
    assert stat.S_IMODE(base_folder.stat().st_mode) == 0o700
    for folder, names, files in os.walk(base_folder):
        for name in (*names, *files):
            found = os.lstat(os.path.join(folder, name))
            private = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
            assert stat.S_IMODE(found.st_mode) == private, os.path.join(folder, name)
    assert node.key.token.hex() not in repr(node)


def test_a_key_is_one_line_and_nothing_else_is_taken_for_one() -> None:
    key = SessionKey("1123-060053-48f9cd", bytes(range(32)), b"p" * 40, b"s" * 40)
    text = key.to_text()

    assert SessionKey.from_text(f"{text}\n") == key
    for wrong in ("", "x", text[:-4], text + "AAAA", text.partition(".")[2], json.dumps(text)):
        with pytest.raises(BadKey):
            SessionKey.from_text(wrong)
