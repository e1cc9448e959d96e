"""What dead owners had recorded with the GCS: who is their heir, and who hears of it.

A worker's heir is the driver of its job. A node's, whose raylet owns what was put there, is one of the nodes that have
copies, if possible one that stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkray_core.ids import ProcessId, node_of, raylet_of
from sparkray_core.messages import BorrowedCounts, CheckBorrowed, EstateClosed, InheritObjects, ProcessGone
from sparkray_core.model.bounded import Recent
from sparkray_core.model.effects import Send, SendFrom
from sparkray_core.model.records import places_in, stored_in

if TYPE_CHECKING:
    from sparkray_core.model.head import Head


class Estates:
    def __init__(self, head: Head) -> None:
        self.head = head
        self._decided: Recent[ProcessId, None] = Recent(head.limits.remembered)  # whose heirs are

    def pass_on(self, left: EstateClosed, now: float) -> None:
        """What this process had recorded is its heir's, if there is one. All nodes hear of its death and of the heir;
        what comes later goes to the same."""
        head, owner, why = self.head, left.owner, left.why
        first = owner not in self._decided
        heir = self._heir_of(left) if first else head.records.heirs.get(owner)
        if heir is not None:
            head.out.append(Send(heir, InheritObjects(owner, why, left.functions, left.tasks, left.objects)))
        head.records.passes(owner, heir, now)
        head.shards.tell(ProcessGone(owner, why, heir))
        if first:
            self._decided.remember(owner, None)
            kept = stored_in(left.objects) if heir is not None else []
            head.tell_nodes(ProcessGone(owner, why, heir, kept))

    def _heir_of(self, left: EstateClosed) -> ProcessId | None:
        head = self.head
        if left.owner != raylet_of(node_of(left.owner)):
            return head.jobs.heir(left.driver) if left.objects else None
        places = (node for node in places_in(left.objects) if node not in head.shards.closing)
        living = [head.nodes.all[node].info for node in places if head.nodes.is_alive(node)]
        first = min(living, key=lambda info: bool(info.visits or info.draining), default=None)  # that stays
        return raylet_of(first.node) if first is not None else None

    def check_borrowed(self, owner: ProcessId, message: CheckBorrowed) -> None:
        """Each shard answers itself, behind what it has let go of. (One that has not joined yet has not heard of what
        is on its way to it: then nobody answers, and the GCS stays counted in.)"""
        head = self.head
        shards = head.shards.processes()
        if len(shards) < head.shards.count:
            return
        counts = head.records.times_held(message.objects)
        head.actors.states.add_times_held(counts)
        head.out.append(Send(owner, BorrowedCounts(message.round, list(counts.items()), shards)))
        head.out.extend(SendFrom(shard, owner, message) for shard in shards)
