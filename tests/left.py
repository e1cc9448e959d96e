"""What a test has left behind, when somebody wants to know by himself; the check after each test is in conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

KINDS = ("process", "socket", "shared memory", "folder", "thread")


@dataclass(frozen=True)
class Left:
    """Each thing as its kind and its name."""

    things: list[tuple[str, str]]

    def __str__(self) -> str:
        counts = ", ".join(f"{sum(kind == one for one, _ in self.things)} x {kind}" for kind in KINDS)
        return f"left behind: {counts}" + "".join(f"\n  {kind} {name}" for kind, name in self.things)


LeftBehind = Callable[[], Left]
