"""The head's part in leases: it places those that their own node cannot grant, and keeps what fits nowhere yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparkray_core.ids import LeaseId, NodeId, ProcessId, node_of, raylet_of
from sparkray_core.messages import LeaseRefused, RequestLeases, ReturnLeases
from sparkray_core.model import where as places
from sparkray_core.model.choosing import Choosing, Held, Refusal
from sparkray_core.model.effects import Effect, Send, SendFrom
from sparkray_core.model.head_nodes import Nodes
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.resources import show


@dataclass(frozen=True, slots=True)
class Nowhere:
    """No node could ever hold it."""


NOWHERE = Nowhere()


@dataclass(slots=True)
class Hopeless:
    """A lease that no node could ever grant. It waits for one that could; without end, if for its placement group."""

    owner: ProcessId
    asked: RequestLeases
    until: float


class HeadLeases:
    def __init__(self, nodes: Nodes, choosing: Choosing, limits: HeadLimits, out: list[Effect]) -> None:
        self.nodes = nodes
        self.choosing = choosing
        self.limits = limits
        self.out = out
        self.hopeless: dict[LeaseId, Hopeless] = {}
        self.placed_at: dict[LeaseId, NodeId] = {}  # leases that may be waiting there still
        self.before_placing: Callable[[], None] = lambda: None  # set by head.py, as is the next
        self.on_event: Callable[[str, str], None] = lambda severity, sentence: None

    def requested(self, owner: ProcessId, message: RequestLeases, now: float) -> None:
        """From the owner's raylet, or (placed) from one that had it queued for long."""
        leases: list[LeaseId] = []
        for lease in message.leases:
            if message.placed:
                self.placed_at.pop(lease, None)
            elif lease in self.placed_at or lease in self.hopeless:
                continue  # asked again, as owners do when a node dies; the first asking still stands
            leases.append(lease)
        if not leases:
            return
        verdict = self._place(owner, leases, message)
        if verdict is None:
            return
        until = float("inf") if isinstance(verdict, Held) else now + self.limits.infeasible_grace_s
        for lease in leases:
            if isinstance(verdict, Refusal):
                self.out.append(Send(owner, LeaseRefused(lease, verdict.why, f"Task{verdict.kind}")))
            else:
                self.hopeless[lease] = Hopeless(owner, message, until)
        if verdict is NOWHERE:
            whose = places.show(message.where)
            self.on_event("WARNING", f"no node{whose} can ever grant {show(message.resources)}")

    def taken_back(self, owner: ProcessId, leases: list[LeaseId]) -> None:
        """The owner needs them no more; they may still wait where they were placed."""
        shares: dict[NodeId, list[LeaseId]] = {}
        for lease in leases:
            self.hopeless.pop(lease, None)
            node = self.placed_at.pop(lease, None)
            if node is not None:
                shares.setdefault(node, []).append(lease)
        for node, share in shares.items():
            self.out.append(SendFrom(raylet_of(node), owner, ReturnLeases(share)))

    def _place(self, owner: ProcessId, leases: list[LeaseId], asked: RequestLeases) -> Held | Refusal | Nowhere | None:
        """None: there was a node for them; what is free right now does not matter for that."""
        saves = self.choosing.saves(asked) if asked.prefer else None
        chosen = self.choosing.choose(asked.resources, len(leases), saves, asked.where)
        if isinstance(chosen, Held | Refusal):
            return chosen
        if not chosen:
            return NOWHERE
        self.before_placing()
        needs = places.needs(asked.resources, asked.where)
        shares: dict[NodeId, list[LeaseId]] = {}
        for lease, node in zip(leases, chosen, strict=True):
            shares.setdefault(node, []).append(lease)
        for node, share in shares.items():
            for lease in share:
                self.nodes.all[node].place(needs, lease=lease)
                self.placed_at[lease] = node
            self.out.append(SendFrom(raylet_of(node), owner, _placed(asked, share)))
        return None

    def try_hopeless(self, now: float, news: bool) -> None:
        """
        Args:
            news: a node joined, or a placement group changed.
        """
        for lease, waiting in list(self.hopeless.items()):
            verdict = self._place(waiting.owner, [lease], waiting.asked) if news else NOWHERE
            if isinstance(verdict, Refusal):
                self.out.append(Send(waiting.owner, LeaseRefused(lease, verdict.why, f"Task{verdict.kind}")))
            elif isinstance(verdict, Held):
                waiting.until = float("inf")
                continue
            elif verdict is NOWHERE and now < waiting.until:
                if news and waiting.until == float("inf"):
                    waiting.until = now + self.limits.infeasible_grace_s
                continue
            elif verdict is NOWHERE:
                self.out.append(Send(waiting.owner, LeaseRefused(lease, self._why_hopeless(waiting.asked))))
            del self.hopeless[lease]

    def _why_hopeless(self, asked: RequestLeases) -> str:
        offers = sorted({show(record.info.resources) for record in self.nodes.alive()})
        listed = "; ".join(offers[:5]) + (f"; and {len(offers) - 5} more" if len(offers) > 5 else "")
        whose = places.show(asked.where)
        return (
            f"no node of the session{whose} can ever grant {show(asked.resources)}, and none that could joined within "
            f"{self.limits.infeasible_grace_s:g} s. Nodes have: {listed or 'there is no node'}. Ask for less, or add a "
            f"node that has it"
        )

    # ------------------------------------------------------------------ ends
    def settled(self, lease: LeaseId, node: NodeId) -> None:
        """It does not wait there any more."""
        if self.placed_at.get(lease) == node:
            del self.placed_at[lease]

    def forget(self, process: ProcessId | None = None, node: NodeId | None = None) -> None:
        """The process, or all of the node, wants nothing any more."""
        self.hopeless = {
            lease: waiting
            for lease, waiting in self.hopeless.items()
            if waiting.owner != process and node_of(waiting.owner) != node
        }

    def next_wake(self) -> float | None:
        return min((waiting.until for waiting in self.hopeless.values()), default=None)


def _placed(asked: RequestLeases, leases: list[LeaseId]) -> RequestLeases:
    """For these of them. (`frozen.replaced` would take four times as long, and this is done for each node chosen.)"""
    return RequestLeases(
        leases,
        asked.resources,
        asked.prefer,
        True,
        asked.env,
        asked.retriable,
        asked.priority,
        asked.name,
        asked.where,
        asked.lying,
    )
