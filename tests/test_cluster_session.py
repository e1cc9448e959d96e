"""The end of a session whose nodes did not all come up."""

from __future__ import annotations

import os

from sparkray.cluster_session import GENTLE_END_S, ClusterSession
from sparkray_core.run.folders import make_node_folder, mark_folder
from sparkray_core.run.processes import Identity


def test_the_folder_of_a_keeper_that_was_killed_at_its_start_goes_with_the_session() -> None:
    session = ClusterSession({}, 1.0, False)
    folder = make_node_folder(session.base_folder, session.name, "00" * 8)
    os.close(mark_folder(folder, Identity(2**22 + 1, 1.0)))  # whoever held the lock is dead

    report = session.end("its start failed")

    assert not os.path.exists(os.path.dirname(folder))
    assert report.clean
    assert report.seconds < GENTLE_END_S
