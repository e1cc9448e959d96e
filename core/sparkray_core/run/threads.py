"""How many threads OpenMP and BLAS use in a worker: as many as its task or actor has CPUs, and at least one.

Left to themselves they take one per core of the machine in every worker, and fight. What the user has set, in the
driver's environment or by `env_vars`, is never touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

DEFAULT = "OMP_NUM_THREADS"  # OpenBLAS and MKL go by it, too, where their own is not set
VARIABLES = frozenset({DEFAULT, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "GOTO_NUM_THREADS"})

_by_user = False  # the user has chosen; nothing here changes it any more


def begin() -> None:
    """In the zygote, before anything is imported that reads the variables: one thread, unless the user wants more."""
    global _by_user
    _by_user = not VARIABLES.isdisjoint(os.environ)
    os.environ.setdefault(DEFAULT, "1")


def set_count(count: int) -> None:
    """For what is loaded already, and for what will be, here and in child processes."""
    if _by_user:
        return
    os.environ[DEFAULT] = str(count)
    _limit(count)


def follow_variables(given: Iterable[str]) -> None:
    """These variables were set by the user's `env_vars` a moment ago."""
    global _by_user
    named = VARIABLES.intersection(given)
    if not named:
        return
    _by_user = True
    for name in (DEFAULT, *sorted(named - {DEFAULT})):  # the libraries' own one counts where both are given
        value = os.environ.get(name, "").split(",")[0]
        if name in named and value.isdigit() and int(value) > 0:
            _limit(int(value))


def _limit(count: int) -> None:
    from threadpoolctl import threadpool_limits  # 5 ms, and only who has other than one CPU needs it

    threadpool_limits(count)
