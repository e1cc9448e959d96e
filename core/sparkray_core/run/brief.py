"""Values that nobody can change, and so short that a message carries them as they are."""

from __future__ import annotations

from types import NoneType
from typing import Any, Final

MOST_ITEMS: Final = 8
MOST_CHARACTERS: Final = 64  # or bytes, each
MOST_OF_AN_INT: Final = 1 << 64

_NUMBERS: Final = frozenset({NoneType, bool, float})
_STRINGS: Final = frozenset({str, bytes})


def are_brief(items: tuple[Any, ...]) -> bool:
    """Whether there are only a few, and all of them are such values. Subclasses are not."""
    if len(items) > MOST_ITEMS:
        return False
    for item in items:
        cls = type(item)
        if cls is int:
            if not -MOST_OF_AN_INT < item < MOST_OF_AN_INT:
                return False
        elif cls not in _NUMBERS and not (cls in _STRINGS and len(item) <= MOST_CHARACTERS):
            return False
    return True
