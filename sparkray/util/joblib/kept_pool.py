"""One pool that is kept from a `Parallel` to the next, as joblib's own backend does.

To import scikit-learn takes seconds in each process, and one fit may be ten calls of `Parallel`.
"""

from __future__ import annotations

import threading

from sparkray.util.multiprocessing.pool import Pool

QUIET_LIMIT_S = 5.0  # for the last callback to return
KEEP_S = 60.0  # idle processes cost memory, but no CPU of the cluster

_lock = threading.Lock()
_kept: Pool | None = None
_timer: threading.Timer | None = None


def borrow(processes: int) -> Pool:
    """The kept pool, if it has this size and is sound; else a new one."""
    pool = _exchange(None)
    if pool is not None:
        if pool.is_sound and pool.processes == processes:
            return pool
        pool.close()
    return Pool(processes)


def give_back(pool: Pool) -> None:
    """Keep it if nothing is under way in it, in place of the one that is kept."""
    if not pool.wait_idle(QUIET_LIMIT_S):
        end(pool)
        return
    former = _exchange(pool)
    if former is not None:
        former.close()


def end(pool: Pool) -> None:
    """Kill it. No callback comes any more: joblib would take it for one of the next call, and fail that."""
    pool.terminate()
    pool.wait_idle(QUIET_LIMIT_S)


def _exchange(pool: Pool | None) -> Pool | None:
    global _kept, _timer
    with _lock:
        if _timer is not None:
            _timer.cancel()
            _timer = None
        former, _kept = _kept, pool
        if pool is not None:
            _timer = threading.Timer(KEEP_S, _expire, (pool,))
            _timer.daemon = True
            _timer.start()
    return former


def _expire(pool: Pool) -> None:
    global _kept
    with _lock:
        if _kept is not pool:
            return
        _kept = None
    pool.close()
