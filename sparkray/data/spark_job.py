"""A function for `mapInArrow` that works in a Spark Python worker which has to be told where sparkray is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import sparkray
import sparkray_core
from sparkray_core import errors

# Pickled by value, because its module is "__main__". A function of ours would be pickled by name, and could not even be
# read where sparkray is found only after the path was extended. For the same reason the order comes as a pickle.
_JOB = """
def job(batches):
    import sys
    try:
        import sparkray.data.spark_worker as worker
    except ImportError:
        sys.path += [root for root in roots if root not in sys.path]
        import sparkray.data.spark_worker as worker
    import pickle
    yield from getattr(worker, what)(batches, pickle.loads(order))
"""


def job(what: str, order: object) -> Callable[[Any], Any]:
    """`spark_worker.<what>(batches, order)`, to be handed to Spark."""
    import pickle

    roots = [
        os.path.dirname(os.path.dirname(os.path.abspath(str(package.__file__))))
        for package in (sparkray, sparkray_core)
    ]
    names: dict[str, Any] = {"__name__": "__main__", "what": what, "order": pickle.dumps(order, 5), "roots": roots}
    exec(_JOB, names)
    return names["job"]  # type: ignore[no-any-return]


_ERROR = re.compile(r"^sparkray_core\.errors\.(\w+): (.*)$", re.MULTILINE)


def own_error(error: Exception) -> errors.RayError | None:
    """Our own error inside one of Spark's, which tells of it with the worker's traceback; None if it is another's."""
    found = _ERROR.search(str(error))
    return None if found is None else errors.by_name(found.group(1), found.group(2))
