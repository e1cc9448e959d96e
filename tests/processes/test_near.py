"""Who listens on this machine, and is spoken to without a raylet."""

from __future__ import annotations

from pathlib import Path

from sparkray_core.ids import NodeId, ProcessId
from sparkray_core.run import local_process
from sparkray_core.run.near import Near
from sparkray_core.testing import simulation

HERE, BESIDE, FAR = (NodeId(name) for name in (b"node-one", b"twosided", b"far-away"))


def worker(node: NodeId, number: int = 1) -> ProcessId:
    return ProcessId(node + number.to_bytes(8, "big"))


def test_nodes_beside_this_one_are_near_until_they_are_buried(tmp_path: Path) -> None:
    here, beside = tmp_path / HERE.hex()[:8], tmp_path / BESIDE.hex()[:8]
    beside.mkdir(parents=True)
    near = Near(str(here), HERE)
    name = "0000000000000001.sock"

    assert [near.path_of(worker(node)) for node in (HERE, BESIDE, FAR)] == [str(here / name), str(beside / name), None]

    near.does_not_listen(worker(BESIDE))
    assert near.path_of(worker(BESIDE)) is None
    assert near.path_of(worker(BESIDE, 2)) is not None
    near.bury(BESIDE)
    assert near.path_of(worker(BESIDE, 2)) is None


def test_the_simulator_sends_by_the_same_ways() -> None:
    assert set(simulation.PUSHED) == local_process._PUSHED
