"""A shard of the GCS beside the head: its model, and the links to the head and to all nodes.

It may die: its keeper forks another, which goes on where it was, as it does with the head. To those whose records it
has that is a pause, and to all others nothing.
"""

from __future__ import annotations

import gc
import signal
import sys

from sparkray_core.ids import HEAD_NODE, raylet_of, shard_node
from sparkray_core.model.shard import Shard
from sparkray_core.run import child
from sparkray_core.run.child import Parent
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.journal import Found, Journal
from sparkray_core.run.journalled import Journalled, tables_of, what_is_left
from sparkray_core.run.keeping import TOLD_TO_END
from sparkray_core.run.limits import head_limits
from sparkray_core.run.loop import Loop
from sparkray_core.run.peers import open_transport
from sparkray_core.wire.transport import Transport
from sparkray_core.wire.zmq_transport import CannotListen


def name_of(number: int) -> str:
    """By which its log and its tables are found."""
    return f"gcs-shard-{number}"


def main(config: NodeConfig, number: int, parent: Parent, tell: int | None) -> None:
    """A life of a shard, right after the keeper forked it.

    Args:
        config: its port is this shard's; 0 in the first life.
        number: from 0.
        tell: where to write, once all is open, the line that the keeper waits for. None: this is not the first life.
    """
    loop = Loop(pulse=parent.pulse)
    loop.catch({signal.SIGTERM: loop.stop})
    child.begin(name_of(number), config, parent.pid, title=f"gcs shard {number}")
    gc.freeze()
    gc.enable()
    loop.watch(parent.lifeline, loop.stop)
    try:
        transport, address = open_transport(config, shard_node(number))
    except CannotListen as error:
        if tell is None:
            raise
        child.tell_keeper(tell, {"failed": str(error)})
        return
    journal = Journal(tables_of(config, name_of(number)))
    found = what_is_left(journal) if tell is None else None
    shell = ShardShell(config, number, loop, transport, address, journal, found)
    if tell is not None:
        child.tell_keeper(tell, {"address": address})
    shell.run()
    shell.close()  # not if that raised: what the turn did is not written down, so nobody may hear of it
    if not shell.session_ended:
        sys.exit(TOLD_TO_END)


class ShardShell(Journalled[Shard]):
    def __init__(
        self,
        config: NodeConfig,
        number: int,
        loop: Loop,
        transport: Transport,
        address: str,
        journal: Journal,
        found: Found | None = None,
    ) -> None:
        shard = Shard(number, address, head_limits(config.settings))
        super().__init__(
            raylet_of(shard_node(number)), shard, config.settings, loop, transport, address, journal, found
        )
        assert config.head_address is not None
        self._peers.connect(HEAD_NODE, config.head_address)

    @property
    def session_ended(self) -> bool:
        return self._model.ended is not None
