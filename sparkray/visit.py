"""Looking into a session without being one of its drivers: for the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sparkray import joining
from sparkray_core.ids import new_process_id
from sparkray_core.run.core import Core
from sparkray_core.run.guest import ROLE
from sparkray_core.run.settings_sources import resolve
from sparkray_core.wire.frames import ConnectionLost


@contextlib.contextmanager
def visiting(address: str | None = None, key_file: str | None = None) -> Iterator[Core]:
    """A guest's connection: it owns nothing, and its end is nobody's concern. `sparkray.util.state` works in it.

    Args:
        address: as of `init`, but None is "auto".

    Raises:
        ConnectionError: there is no such session, or it does not take the key.
    """
    settings = resolve()
    target = joining.find(address or joining.AUTO, key_file, settings.base_folder)
    if target is None:
        raise ConnectionError("'local' is no session: say host:port, or nothing for the latest one on this host")
    node = None
    if target.here is None:
        node = joining.start_visitor(target, (), settings)
        folder, node_id = node.folder, node.config.node
    else:
        folder, node_id = target.here.folder, target.here.node
    try:
        core = Core(new_process_id(node_id), folder, target.key.token, ROLE, settings)
        try:
            core.connect()
        except ConnectionLost as lost:
            raise ConnectionError(f"the session at {target.address} does not answer: {lost.why}") from None
        try:
            yield core
        finally:
            core.close("the command has ended")
    finally:
        if node is not None:
            node.stop()
