"""The driver's decisions while the nodes come up: who hosts the head, who waits for it, when all are ready. No I/O."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from sparkray.versions import versions, why_doubtful, why_refused


@dataclass
class Gathering:
    """Who has come, who hosts the head, who is ready. Guests are whatever the caller tells them apart by."""

    nodes: int
    here: dict[Hashable, str] = field(default_factory=dict)  # the executor's address
    ready: dict[Hashable, dict[str, Any]] = field(default_factory=dict)
    head: Hashable | None = None
    head_address: str | None = None
    failure: str | None = None  # the first; the start is over then
    doubts: list[str] = field(default_factory=list)  # what may go wrong later, executor by executor

    @property
    def complete(self) -> bool:
        return self.failure is None and len(self.ready) == self.nodes

    def said(self, guest: Hashable, facts: dict[str, Any]) -> list[tuple[Hashable, dict[str, Any]]]:
        """What to say now, and to whom."""
        match facts["kind"]:
            case "here":
                return self._came(guest, facts)
            case "ready":
                self.ready[guest] = facts
                if guest != self.head:
                    return []
                self.head_address = facts["head_address"]
                word = {"kind": "head", "address": self.head_address}
                return [(other, word) for other in self.here if other != guest]
            case "failed":
                self._fail(f"on the executor at {facts['address']}: {facts['why']}")
            case other:
                self._fail(f"a task said {other!r}, which this version of sparkray does not know")
        return []

    def _came(self, guest: Hashable, facts: dict[str, Any]) -> list[tuple[Hashable, dict[str, Any]]]:
        self.here[guest] = facts["address"]
        ours = versions()
        refused = why_refused(ours, facts["versions"], facts["address"])
        if refused is not None:
            self._fail(refused)
            return []
        doubt = why_doubtful(ours, facts["versions"], facts["address"])
        if doubt is not None:
            self.doubts.append(doubt)
        if self.head is None:
            self.head = guest
            return [(guest, {"kind": "start", "hosts_head": True})]
        words: list[tuple[Hashable, dict[str, Any]]] = [(guest, {"kind": "start", "hosts_head": False})]
        if self.head_address is not None:
            words.append((guest, {"kind": "head", "address": self.head_address}))
        return words

    def left(self, guest: Hashable) -> None:
        self._fail(f"the Spark task on the executor at {self.here.get(guest, 'an unknown address')} ended too early")

    def _fail(self, why: str) -> None:
        self.failure = self.failure or why
