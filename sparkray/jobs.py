"""A driver makes itself known to the head: it is a job from then on."""

from __future__ import annotations

import os
import socket
import sys
import time

from sparkray_core.ids import HEAD
from sparkray_core.messages import RegisterJob
from sparkray_core.run.core import Core


def register(core: Core) -> None:
    """Right after the driver has connected."""
    facts = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join(sys.argv),
        "namespace": core.namespace,
        "started": time.time(),
    }
    core.job = core.request(HEAD, lambda number: RegisterJob(number, facts))
