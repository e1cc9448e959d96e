"""Ray's `ray.experimental`: where objects are."""

from __future__ import annotations

from typing import Any

from sparkray.session import core
from sparkray_core.ids import NodeId, node_of
from sparkray_core.model.entries import bare, is_failure, is_stored, place
from sparkray_core.run.object_ref import ObjectRef

__all__ = ["get_local_object_locations", "get_object_locations"]


def get_object_locations(obj_refs: list[ObjectRef[Any]], timeout_ms: int = -1) -> dict[ObjectRef[Any], dict[str, Any]]:
    """On which nodes the values of these lie.

    Args:
        timeout_ms: to wait for those that are not there yet; -1 waits without limit.

    Returns:
        By reference: "node_ids" (hex; that of its owner for a small value, which is in no store) and "object_size" (of
        the pickled value, in bytes; None where it is not known).
    """
    here = core()
    here.wait([ref._entry for ref in obj_refs], len(obj_refs), None if timeout_ms < 0 else timeout_ms / 1000)
    return get_local_object_locations(obj_refs)


def get_local_object_locations(obj_refs: list[ObjectRef[Any]]) -> dict[ObjectRef[Any], dict[str, Any]]:
    """As `get_object_locations`, by what this process knows already."""
    found: dict[ObjectRef[Any], dict[str, Any]] = {}
    for ref in obj_refs:
        value = ref._entry.value
        size: int | None = None
        nodes: tuple[NodeId, ...] = ()
        if value is not None and is_stored(value):
            size, nodes = place(value)
        elif value is not None and not is_failure(value):
            inline = bare(value)
            size = len(inline) if isinstance(inline, bytes) else sum(len(part) for part in inline[1:])
            nodes = (node_of(ref._entry.owner),)
        found[ref] = {"node_ids": [node.hex() for node in nodes], "object_size": size, "did_spill": False}
    return found
