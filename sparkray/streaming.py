"""Calls whose result is a stream: what tasks and actors' methods have in common."""

from __future__ import annotations

from typing import Any

from sparkray.options import DYNAMIC, STREAMING
from sparkray_core.model.streams import Stream
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.ref_generator import ObjectRefGenerator


def open_stream(here: Core, count: int, returns: int) -> tuple[Stream, Any]:
    """For the call with this number: the stream of its task, and what the caller gets.

    Args:
        returns: as `Options.returns` gives it, below zero.
    """
    gathers = returns == DYNAMIC
    stream = Stream(here.me, count, 0 if gathers else STREAMING - returns, gathers)
    return stream, ObjectRef[Any](stream.end) if gathers else ObjectRefGenerator[Any](stream)
