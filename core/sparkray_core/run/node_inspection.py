"""What a raylet answers to `Inspect`: what lies in its node's folder. (Its model answers `Ask`.)

logs    names of the log files
log     detail: (name, first byte, most bytes) -> (size of the file, bytes), or None
"""

from __future__ import annotations

import os
from typing import Any

from sparkray_core.run.config import NodeConfig

MOST_BYTES = 4 << 20  # of a log in one answer


def answer(config: NodeConfig, what: str, detail: Any) -> Any:
    """The answer; None to what is not known or not there."""
    if what == "head_address":
        return config.head_address
    logs = os.path.join(config.folder, "logs")
    if what == "logs":
        try:
            return sorted(os.listdir(logs))
        except FileNotFoundError:
            return []
    if what == "log":
        name, first, most = detail
        if name != os.path.basename(name):
            return None  # names only: nothing outside the folder can be read this way
        try:
            with open(os.path.join(logs, name), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(first if first >= 0 else max(0, size + first))
                return size, file.read(min(most, MOST_BYTES))
        except OSError:
            return None
    return None
