"""Small helps of Ray's `ray.util.debug`."""

from __future__ import annotations

import time

PERIOD_S = 60.0  # after which `log_once` says True again, once `enable_periodic_logging` was called; Ray's number

_logged: set[str] = set()
_disabled = False
_periodic = False
_last_logged = 0.0


def log_once(key: str) -> bool:
    """Whether this is the first time that this process asks with this key."""
    global _last_logged
    if _disabled:
        return False
    if _periodic and time.monotonic() - _last_logged > PERIOD_S:
        _logged.clear()
    if key in _logged:
        return False
    _logged.add(key)
    _last_logged = time.monotonic()
    return True


def disable_log_once_globally() -> None:
    """Let `log_once` say False from now on in this process."""
    global _disabled
    _disabled = True


def enable_periodic_logging() -> None:
    """Let `log_once` forget its keys in this process when it has said True to nobody for a minute."""
    global _periodic
    _periodic = True


def reset_log_once(key: str | None = None) -> None:
    """Let `log_once` say True to this key again; None: to each."""
    if key is None:
        _logged.clear()
    else:
        _logged.discard(key)
