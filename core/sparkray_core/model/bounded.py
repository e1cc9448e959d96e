"""A memory of what happened lately: the oldest entry goes when there are too many."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")


class Recent(Generic[Key, Item]):
    """A mapping that keeps the last `most` keys."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._items: OrderedDict[Key, Item] = OrderedDict()

    def remember(self, key: Key, item: Item) -> None:
        self._items[key] = item
        self._items.move_to_end(key)
        while len(self._items) > self.most:
            self._items.popitem(last=False)

    def get(self, key: Key) -> Item | None:
        return self._items.get(key)

    def forget(self, key: Key) -> None:
        self._items.pop(key, None)

    def values(self) -> list[Item]:
        return list(self._items.values())

    def items(self) -> list[tuple[Key, Item]]:
        return list(self._items.items())

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)
