"""What the simulator foretells for the loops on more CPUs than are here, with each part as long as it was here."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from stress_systems import PYTHON
from stress_work import CUBE

from sparkray_core.testing.simulate import predict

CPUS_PER_NODE = 28  # as where Ray's published numbers come from: 3 nodes of 28
SIZES = ((1, 1), (1, 2), (1, 4), (1, 8), (1, 14), (1, CPUS_PER_NODE), (2, CPUS_PER_NODE), (3, CPUS_PER_NODE))


def predictions(values: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Args:
        values: of the loops, as in a result file.

    Returns:
        For each cube and number of CPUs: seconds, and efficiency: the sum of the parts by CPUs times seconds.
    """
    found = []
    for line in values:
        measured = [outcome["part_seconds"] for outcome in line["outcomes"] if outcome["part_seconds"]]
        if line["system"] != PYTHON or line["shape"] != CUBE or not measured:
            continue
        parts = [statistics.median(its) for its in zip(*measured, strict=True)]
        for nodes, cpus in SIZES:
            its = predict(parts, nodes=nodes, cpus_per_node=cpus)
            found.append(
                {
                    "shape": CUBE,
                    "size": line["size"],
                    "nodes": nodes,
                    "cpus": nodes * cpus,
                    "seconds": its.makespan,
                    "efficiency": its.efficiency,
                }
            )
    return found
