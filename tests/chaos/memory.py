"""Whether memory stays flat: that of processes that live through a run, or are followed by one of the same role.

What counts is the memory that is a process's own (RssAnon of Linux): not the pages of the store, which are shared and
come with what is read. A role is flat if the median of the last quarter of a run is at most `GROWTH` times that of
its second quarter, and `SLACK` more: the first quarter is for warming up, and a head that was just started is small.
"""

from __future__ import annotations

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

GROWTH = 1.10
SLACK = 8 << 20


def own_bytes(pid: int) -> int:
    """0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path("/proc", str(pid), "status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0


class MemoryWatch:
    """Samples of some roles, at even intervals."""

    def __init__(self) -> None:
        self._samples: defaultdict[str, list[int]] = defaultdict(list)

    def sample(self, pids: Mapping[str, int]) -> None:
        for role, pid in pids.items():
            if size := own_bytes(pid):
                self._samples[role].append(size)

    def quarters(self) -> dict[str, list[int]]:
        """Median bytes of each quarter of the time, by role."""
        found = {}
        for role, sizes in self._samples.items():
            quarter = len(sizes) // 4
            if quarter:
                parts = [sizes[:quarter], sizes[quarter : 2 * quarter], sizes[2 * quarter : -quarter], sizes[-quarter:]]
                found[role] = [int(statistics.median(part)) for part in parts]
        return found

    def grown(self) -> list[str]:
        """Those that are not flat, in words."""
        return [
            f"{role} grew from {before / 2**20:.1f} to {after / 2**20:.1f} MiB"
            for role, (_, before, _, after) in self.quarters().items()
            if after > before * GROWTH + SLACK
        ]
