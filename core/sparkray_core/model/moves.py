"""What every record with a state has in common: the error of a move that its table does not allow."""

from __future__ import annotations

from collections.abc import Iterable


class IllegalMove(AssertionError):
    """A bug in the model: a record was to go from one state to another that its MOVES do not allow."""

    def __init__(self, what: str, state: str, to: str, story: Iterable[str] = ()) -> None:
        super().__init__(what, state, to, list(story))
        self.what, self.state, self.to, self.story = what, state, to, list(story)

    def __str__(self) -> str:
        past = "".join(f"\n    {line}" for line in self.story)
        return f"{self.what} cannot go from {self.state} to {self.to}.{past and ' So far:' + past}"
