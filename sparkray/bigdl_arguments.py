"""What BigDL's RayOnSparkContext and its forerunners took and RayContext does not need: accepted, and told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

# What to use, or why nothing is needed.
OBSOLETE: Mapping[str, str] = {
    "redis_port": "there is no Redis, and the system chooses free ports",
    "redis_password": "there is no Redis; every session has a key of its own, which Spark carries",
    "password": "there is no Redis; every session has a key of its own, which Spark carries",
    "include_webui": "`sparkray status` and sparkray.util.state show what the web page did",
    "extra_params": "use resources=, labels= and settings=",
    "local_ray_node_num": "use num_ray_nodes=; in local mode there is one node",
    "waiting_time_sec": "nothing waits for a fixed time; start_timeout= is the limit",
    "num_cores": "use ray_node_cpu_cores=",
}


def warn_of_obsolete(given: Mapping[str, Any], where: str, stacklevel: int) -> None:
    """
    Raises:
        TypeError: a name that BigDL does not know either.
    """
    for name, value in given.items():
        if name not in OBSOLETE:
            raise TypeError(f"{where}() got an unexpected keyword argument {name!r}")
        if value is not None:
            warnings.warn(
                f"{where}: {name} has no effect any more: {OBSOLETE[name]}", DeprecationWarning, stacklevel=stacklevel
            )
