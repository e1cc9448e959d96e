"""The limits that the models go by, from a session's settings. (What is no setting is a default beside the models.)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkray_core.model.tasks import OwnerLimits
from sparkray_core.settings import Settings

if TYPE_CHECKING:  # where they are made they are imported: drivers and workers do without, and `import sparkray` too
    from sparkray_core.model.limits import HeadLimits, NodeLimits

# How much longer than the head a peer is patient: the head, which all nodes believe, shall be first to say who died.
_PEER_PATIENCE_S = 2.0


def head_limits(settings: Settings) -> HeadLimits:
    from sparkray_core.model.limits import HeadLimits

    return HeadLimits(
        node_timeout_s=settings.node_timeout_s,
        infeasible_grace_s=settings.infeasible_grace_s,
        driver_s=settings.start_limit_s,
        shards=shards_of(settings),
    )


def shards_of(settings: Settings) -> int:
    """Processes beside the head; one alone would only be another place for the same."""
    return settings.gcs_shards if settings.gcs_shards > 1 else 0


def owner_limits(settings: Settings) -> OwnerLimits:
    return OwnerLimits(oom_retries=settings.task_oom_retries, lineage_bytes=settings.lineage_bytes)


def node_limits(settings: Settings, prestart: int | None) -> NodeLimits:
    """
    Args:
        prestart: workers forked at the start; None: as many as CPUs.
    """
    from sparkray_core.model.limits import NodeLimits

    return NodeLimits(
        warm_workers=prestart,
        keep_idle=settings.idle_workers,
        waiting_workers=settings.waiting_workers,
        register_s=settings.worker_start_limit_s,
        room_s=settings.store_wait_s,
        spill_mark=settings.object_spilling_threshold,
        memory_threshold=settings.memory_threshold,
    )


def peer_silence_s(settings: Settings) -> float:
    """A peer that owed an answer for so long is reported as lost."""
    return settings.node_timeout_s + _PEER_PATIENCE_S
