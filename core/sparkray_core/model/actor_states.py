"""The head's copies of what actors saved of their state, each until a later one takes its place or the actor is dead.

A small state is kept here, so it survives its node. A large one, or one with references inside, is an object of the
raylet on whose node it was saved; the head is a borrower of it, and knows it for lost when that node dies.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparkray_core.ids import HEAD, ActorId, NodeId, ObjectId, ProcessId, node_of, owner_of
from sparkray_core.messages import ActorSaved, DropBorrowers, SaveActor, Value
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.resources import show_bytes


@dataclass(slots=True)
class SavedState:
    state: Value | None  # None: it is in the object
    object: ObjectId | None
    size: int
    lost: str = ""  # why it cannot be had any more


class SavedStates:
    def __init__(self, out: list[Effect]) -> None:
        self.out = out
        self.of: dict[ActorId, SavedState] = {}

    def keep(self, worker: ProcessId, message: SaveActor) -> None:
        """From the present life of the actor."""
        self.forget(message.actor)
        self.of[message.actor] = SavedState(message.state, message.object, message.size)
        self.out.append(Send(worker, ActorSaved(message.actor, message.number)))

    def refuse(self, message: SaveActor) -> None:
        """From a life that was given up: the next one began, or will, with what had been saved by then."""
        self._let_go(message.object)

    def forget(self, actor: ActorId) -> None:
        saved = self.of.pop(actor, None)
        if saved is not None and not saved.lost:
            self._let_go(saved.object)

    def node_gone(self, node: NodeId, why: str) -> None:
        for saved in self.of.values():
            if saved.object and node_of(owner_of(saved.object)) == node:
                saved.lost = (
                    f"its saved state ({show_bytes(saved.size)}) was only on node {node.hex()}, and {why}. A state "
                    f"without references, of up to checkpoint_head_bytes, survives its node"
                )

    def add_times_held(self, counts: dict[ObjectId, int]) -> None:
        """To how often the GCS holds these for others' sake."""
        for saved in self.of.values():
            some = saved.object
            if some is not None and some in counts and not saved.lost:
                counts[some] += 1

    def lost(self, actor: ActorId) -> str:
        """Why a state that was saved cannot be restored; empty: it can, or there is none."""
        saved = self.of.get(actor)
        return saved.lost if saved is not None else ""

    def _let_go(self, some: ObjectId | None) -> None:
        if some:
            self.out.append(Send(owner_of(some), DropBorrowers([(some, HEAD)])))
