"""Views that say when the last of them has died. Apart from `segment`, because it imports numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class _Pin(np.ndarray[Any, np.dtype[np.uint8]]):
    """The exporter of a view. Slices of a memoryview do not keep that alive, but they do keep its exporter.

    numpy shortens chains of bases: an array made from this one would hold on to the array below it instead. So there is
    none below it, only the memory itself.
    """

    __slots__ = ("_memory", "_on_release")  # unset in the copies and slices that numpy makes of a _Pin
    _memory: memoryview
    _on_release: Callable[[], None]

    def __del__(self) -> None:
        on_release: Callable[[], None] | None = getattr(self, "_on_release", None)
        if on_release is not None:
            on_release()


def pinned(memory: memoryview, on_release: Callable[[], None]) -> memoryview:
    """A view of `memory` (which is read-only, and a slice that nobody else will release); see `Segment.pinned_view`."""
    pin = _Pin((len(memory),), np.uint8, memory)
    pin._memory = memory  # numpy keeps the map, but no export of it: closing it would crash instead of failing
    pin._on_release = on_release
    return memoryview(pin)  # type: ignore[arg-type]  # numpy's stubs say Buffer from Python 3.12 on only
