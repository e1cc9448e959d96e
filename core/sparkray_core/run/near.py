"""Where processes listen that can be reached without a raylet: those of this node, and of nodes whose folders lie
beside its own, which are on the same machine and of the same user and session.

That a folder is there shows it; addresses would not: a machine may have several, and containers with one name may have
each their own files. A node that was buried is not spoken to any more, although its workers may still live.
"""

from __future__ import annotations

import os

from sparkray_core.ids import NodeId, ProcessId, node_of


def socket_path(folder: str, process: ProcessId) -> str:
    return os.path.join(folder, f"{process[8:].hex()}.sock")


class Near:
    def __init__(self, folder: str, node: NodeId) -> None:
        """`folder`: of this node."""
        self._beside = os.path.dirname(folder)
        self._folders: dict[NodeId, str | None] = {node: folder}  # None: far away, or buried
        self._silent: set[ProcessId] = set()

    def path_of(self, process: ProcessId) -> str | None:
        """Where it would listen; None: only raylets reach it."""
        node = node_of(process)
        try:
            folder = self._folders[node]
        except KeyError:
            beside = os.path.join(self._beside, node.hex()[:8])  # as in `NodeConfig.folder`
            folder = self._folders[node] = beside if os.path.isdir(beside) else None
        return None if folder is None or process in self._silent else socket_path(folder, process)

    def does_not_listen(self, process: ProcessId) -> None:
        self._silent.add(process)

    def bury(self, node: NodeId) -> None:
        self._folders[node] = None
