"""A node that begins before its head is known, one that outlives who started it, and an end of two children at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sparkray_core.ids import new_node_id
from sparkray_core.run import processes
from sparkray_core.run.config import TOLD_LATER, NodeConfig, NoTie, ProcessTie
from sparkray_core.run.keeper import Ended, Keeper
from sparkray_core.run.start import (
    NodeStartError,
    StartedNode,
    StartingNode,
    new_session_name,
    new_token,
    start_node,
)
from sparkray_core.run.tie import Tie
from tests.waiting import wait_until


def config_of_a_head() -> NodeConfig:
    return NodeConfig(
        session=new_session_name(),
        node=new_node_id(),
        token=new_token(),
        is_head=True,
        head_address=None,
        resources={"CPU": 1000},
        store_bytes=1 << 20,
        prestart=0,
    )


@pytest.fixture(scope="module")
def head() -> Iterator[StartedNode]:
    with start_node(config_of_a_head()) as node:
        yield node


def later(head: StartedNode) -> NodeConfig:
    return replace(head.config, node=new_node_id(), is_head=False, head_address=TOLD_LATER)


def test_a_node_joins_a_head_of_which_it_is_told_later(head: StartedNode) -> None:
    starting = StartingNode(later(head), environment={"COLOUR": "blue"})
    wait_until(lambda: Path(starting._config.folder, "logs", "zygote.log").exists(), "the zygote is up")
    starting.tell_head(head.head_address)
    with starting.ready(20) as node:
        assert node.head_address == node.config.head_address == head.head_address
        assert node.config.head_from is None
        assert b"COLOUR=blue" in Path(f"/proc/{node.pid}/environ").read_bytes().split(b"\0")
    assert not os.path.exists(node.folder)


def test_one_that_is_given_up_leaves_nothing(head: StartedNode) -> None:
    starting = StartingNode(later(head))
    folder = starting._config.folder
    wait_until(lambda: os.path.exists(folder), "it has a folder")
    starting.give_up()

    assert not os.path.exists(folder)


def test_one_that_is_never_told_ends_when_its_time_is_up(head: StartedNode) -> None:
    starting = StartingNode(later(head))
    with pytest.raises(NodeStartError, match=r"not ready within 1 s"):
        starting.ready(1)
    assert not os.path.exists(starting._config.folder)


def test_one_whose_launcher_dies_before_it_could_tell_ends(head: StartedNode) -> None:
    """It is tied to a process that lives on: only the closed pipe says so."""
    me = processes.identify(os.getpid())
    assert me is not None
    config = replace(later(head), tie=ProcessTie(me.pid, me.start))
    code = (
        "import sys, time; from sparkray_core.run.config import NodeConfig; "
        "from sparkray_core.run.start import StartingNode; "
        "s = StartingNode(NodeConfig.from_json(sys.stdin.readline())); print(s._keeper.pid, flush=True); time.sleep(60)"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    with launcher.stdin, launcher.stdout:
        launcher.stdin.write(config.to_json().encode() + b"\n")
        launcher.stdin.flush()
        keeper = processes.identify(int(launcher.stdout.readline()))
        assert keeper is not None
        wait_until(lambda: os.path.exists(config.folder), "the keeper is up")
        launcher.kill()
        launcher.wait()

    wait_until(lambda: not processes.is_alive(keeper), "the keeper has ended")
    assert not os.path.exists(config.folder)


def test_a_node_that_is_left_alone_leaves_no_zombie() -> None:
    tied_to = processes.identify(processes.fork(time.sleep, 60))
    assert tied_to is not None
    config = replace(config_of_a_head(), tie=ProcessTie(tied_to.pid, tied_to.start))
    node = start_node(config)
    node.leave()
    os.kill(tied_to.pid, signal.SIGKILL)
    os.waitpid(tied_to.pid, 0)

    wait_until(lambda: not Path(f"/proc/{node.pid}").exists(), "the keeper has ended and is reaped")


def test_children_that_end_together_are_all_buried_before_the_keeper_ends() -> None:
    """The keeper finds several at one look: for one that it still thinks alive it would wait the grace time."""

    def main() -> int:
        keeper = Keeper(config_of_a_head(), Tie(NoTie()), 0.0)
        children = [keeper._fork(name, time.sleep, 60) for name in ("zygote", "raylet", "head")]
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
        with pytest.raises(Ended, match="killed by SIGKILL"):
            keeper._wait(0)
        return len(keeper._children)

    pid = processes.fork(lambda: sys.exit(main()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_node_whose_processes_die_together_ends() -> None:
    with start_node(config_of_a_head()) as node:
        children = processes.children_of(node.pid)
        os.kill(node.pid, signal.SIGSTOP)
        try:
            for child in children:
                os.kill(child, signal.SIGKILL)
            wait_until(lambda: not processes.children_of(node.pid), "all are dead, and nobody has reaped them")
        finally:
            os.kill(node.pid, signal.SIGCONT)

        wait_until(lambda: not node.is_running(), "the keeper has ended")
