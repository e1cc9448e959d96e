"""How a session of either system is started for a row: two CPUs, nothing printed, no dashboard."""

from __future__ import annotations

import logging
import warnings
from typing import Any

CPUS = 2

_OPTIONS: dict[str, dict[str, Any]] = {
    "ray": {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "address": "local",  # never join a cluster that happens to run on this machine
    },
    "sparkray": {},
}


def start(ray: Any, cpus: int = CPUS) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=cpus, **_OPTIONS[ray.__name__])
