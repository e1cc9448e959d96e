"""The clock on the wall may jump: nothing that lives or ends, waits or is repeated goes by it.

The machine's clock is not touched. Where the code reads it is told by the code; and there are sessions whose processes
read one that jumps by a day, there and back. (test_partition.py has a node with a monotonic clock of its own.)
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparkray
from sparkray.cluster_utils import Cluster
from tests.chaos.loads import LOADS
from tests.pages import ROOT
from tests.waiting import wait_until

STORE_BYTES = 128 << 20
WALL = re.compile(
    r"\btime\.(time|time_ns|ctime|localtime|gmtime)\b|\b(datetime|date)\.(now|utcnow|today)\b|\bst_mtime\b"
    r"|CLOCK_REALTIME|from time import .*\b(time|time_ns)\b"
)
# What reads it, and what for. Whatever is not only shown to somebody has its reason here.
READS = {
    "core/sparkray_core/run/records.py": "when something ran, as it is shown",
    "core/sparkray_core/run/keeper.py": "when the session began: of several, `auto` takes the latest",
    "core/sparkray_core/run/logs.py": "the moment in a line of a log",
    "core/sparkray_core/run/folders.py": "a folder without its owner's mark is swept when it is old, by its mtime",
    "core/sparkray_core/run/obituaries.py": "the moment in a line of a log",
    "sparkray/jobs.py": "when a job began, as it is shown",
    "sparkray/util/state/things.py": "moments as they are shown",
}
JUMPS = """
import time
_true = time.time
time.time = lambda: _true() + 86400.0 * (int(time.monotonic() * 20) % 3 - 1)
time.time_ns = lambda: int(time.time() * 1e9)
"""


def test_the_clock_on_the_wall_is_read_only_to_be_shown() -> None:
    sources = [*(ROOT / "core" / "sparkray_core").rglob("*.py"), *(ROOT / "sparkray").rglob("*.py")]
    assert len(sources) > 100

    found = {str(path.relative_to(ROOT)) for path in sources if WALL.search(path.read_text())}

    assert found == set(READS), "use time.monotonic(), or add the file with its reason"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes whose processes have a clock that jumps; this process, with a right one, has joined."""
    (tmp_path / "sitecustomize.py").write_text(JUMPS)
    clock = {"PYTHONPATH": str(tmp_path)}
    head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "env_vars": clock}
    with Cluster(initialize_head=True, head_node_args=head) as made:
        made.connect(log_to_driver=False)
        made.add_node(num_cpus=2, object_store_memory=STORE_BYTES, env_vars=clock)
        yield made


@sparkray.remote
def jumps() -> float:
    """How far the clock goes back or ahead within a fifth of a second."""
    seen = []
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        seen.append(time.time())
    return max(seen) - min(seen)


@pytest.mark.chaos
def test_a_clock_that_jumps_by_a_day_is_noticed_by_nobody(cluster: Cluster) -> None:
    assert sparkray.get(jumps.remote(), timeout=60) > 86000
    loads = [make(1) for make in LOADS]
    node = next(iter(cluster.worker_nodes))

    for number in range(4):
        for load in loads:
            load.round()
        if number == 1:
            cluster.kill(node, "workers")
    assert all(load.verified for load in loads)
    assert [one["Alive"] for one in sparkray.nodes()] == [True, True]

    cluster.kill(node, "raylet")
    wait_until(lambda: not node.is_running(), "the node ends without its raylet")
    cluster.wait_for_nodes()
    cluster.remove_node(node)
    for load in loads:
        load.round()
