"""kill -9 to a node that has objects: they are made again on another, by real processes.

The head's node has no CPU, so that all runs on the nodes that come and go.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import sparkray
from sparkray.exceptions import ObjectLostError
from sparkray.node_command import started_nodes
from sparkray_core.ids import NodeId, raylet_of
from tests.cluster.conftest import sparkray_command
from tests.marks import slow

LARGE = 300_000  # bytes: it lies in a store
WAIT_S = 60.0


class Nodes:
    """Those that a test adds to the session; they go with it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._known: set[int] = {node.keeper.pid for node in started_nodes()}
        self._added: list[psutil.Process] = []

    def add(self) -> psutil.Process:
        """One more node; its keeper."""
        done = sparkray_command("start", f"--address={self.address}", "--num-cpus=2", "--object-store-memory=67108864")
        assert done.returncode == 0, done.stderr
        (pid,) = {node.keeper.pid for node in started_nodes()} - self._known
        self._known.add(pid)
        self._added.append(psutil.Process(pid))
        return self._added[-1]

    def kill(self, keeper: psutil.Process, victim: str = "keeper") -> None:
        """SIGKILL, and wait until the session knows."""
        alive = self.alive()
        if victim == "keeper":
            keeper.kill()
        else:
            next(one for one in keeper.children() if one.name() == f"sparkray-{victim}").kill()
        deadline = time.monotonic() + WAIT_S
        while self.alive() >= alive:
            assert time.monotonic() < deadline, f"the killed {victim} was not noticed"
            time.sleep(0.02)

    @staticmethod
    def alive() -> int:
        return sum(node["Alive"] for node in sparkray.nodes())

    def end(self) -> None:
        for keeper in self._added:
            with contextlib.suppress(psutil.NoSuchProcess):
                keeper.terminate()
        psutil.wait_procs(self._added, WAIT_S)


@pytest.fixture(scope="module")
def address(module_base_folder: Path) -> str:
    """Of a session that this process has joined."""
    done = sparkray_command("start", "--head", "--num-cpus=0", "--port=0", "--object-store-memory=67108864")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "listens at" in line]
    address = line.rpartition(" ")[2].rstrip(".")
    sparkray.init(address=address, log_to_driver=False)
    return address


@pytest.fixture
def nodes(address: str) -> Iterator[Nodes]:
    added = Nodes(address)
    yield added
    added.end()


@sparkray.remote
def fill(number: int, *parts: Any) -> bytes:
    return bytes([number]) * LARGE + b"".join(part[:1] for part in parts)


@sparkray.remote(num_returns=2)
def two(number: int) -> tuple[bytes, bytes]:
    return bytes([number]) * LARGE, bytes([number + 1]) * LARGE


@sparkray.remote
def several(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield bytes([number]) * LARGE


@sparkray.remote
def inside(number: int) -> list[Any]:
    return [bytes(LARGE), fill.remote(number), sparkray.put(bytes([number]) * LARGE)]


@sparkray.remote
def look(refs: list[Any]) -> list[int]:
    return [value[0] for value in sparkray.get(refs)]


@sparkray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Maker:
    def make(self, number: int) -> bytes:
        return bytes([number]) * LARGE


def test_what_lay_on_a_killed_node_is_made_again(nodes: Nodes) -> None:
    lost = nodes.add()
    first = fill.remote(1)
    left, right = fill.remote(2, first), fill.remote(3, first)
    last = fill.remote(4, left, right)
    both = two.remote(5)
    items = list(several.remote(3))
    maker: Any = Maker.remote()  # type: ignore[attr-defined]
    made = maker.make.remote(9)
    everything = [last, *both, *items, made]
    sparkray.wait(everything, num_returns=len(everything), timeout=WAIT_S)
    del left, right
    put_there = sparkray.get(inside.remote(7), timeout=WAIT_S)[2]
    nodes.add()
    nodes.kill(lost)

    assert sparkray.get(look.remote([*both, items[2], made]), timeout=WAIT_S) == [5, 6, 2, 9]  # a borrower's wish
    values = sparkray.get(everything, timeout=WAIT_S)
    assert [value[0] for value in values] == [4, 5, 6, 0, 1, 2, 9]
    assert values[0][LARGE:] == bytes([2, 3])
    assert sparkray.get(first, timeout=WAIT_S)[0] == 1
    with pytest.raises(ObjectLostError):  # a worker put it, and its raylet owned it
        sparkray.get(put_there, timeout=WAIT_S)


@pytest.mark.parametrize("victim", slow("raylet", "keeper"))
def test_a_node_that_is_killed_under_load_costs_no_result(nodes: Nodes, victim: str) -> None:
    lost = nodes.add()
    nodes.add()
    rows = [fill.remote(number) for number in range(8)]
    for _ in range(3):
        rows = [fill.remote(number, row, rows[number - 1]) for number, row in enumerate(rows)]
    sparkray.wait(rows, num_returns=4, timeout=WAIT_S)
    nodes.kill(lost, victim)

    values = sparkray.get(rows, timeout=WAIT_S)

    assert values == [bytes([n]) * LARGE + bytes([n, (n - 1) % 8]) for n in range(8)]


@pytest.mark.slow
def test_what_was_made_again_is_freed_with_its_last_reference_and_what_it_took(
    nodes: Nodes, wait_until: Callable[..., None]
) -> None:
    core = sparkray.session.core()

    def stored() -> list[int]:
        core.kick()
        raylets = [raylet_of(NodeId(bytes.fromhex(one["NodeID"]))) for one in sparkray.nodes() if one["Alive"]]
        return [core.ask(raylet, "status")["objects"] for raylet in raylets]

    lost = nodes.add()
    large = sparkray.put(bytes(LARGE))
    ref = fill.remote(1, large)
    sparkray.wait([ref], timeout=WAIT_S)
    del large
    nodes.add()
    nodes.kill(lost)
    assert sparkray.get(ref, timeout=WAIT_S) == bytes([1]) * LARGE + bytes(1)
    assert core.owner.lineage.bytes > LARGE

    del ref

    wait_until(lambda: not any(stored()), what=stored)
    assert not core.owner.lineage.records
