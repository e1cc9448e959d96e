"""Small helps of Ray's `ray.util.debug`."""

from __future__ import annotations

_logged: set[str] = set()


def log_once(key: str) -> bool:
    """Whether this is the first time that this process asks with this key."""
    if key in _logged:
        return False
    _logged.add(key)
    return True
