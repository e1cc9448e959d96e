"""What each step of a session costs, for the simulator that asks how long things take (`timed.py`).

Seconds of one core, and of the line between two processes. The defaults were measured on the machine that
docs/scale.md names, by `benchmarks/simulator.py`, which measures any other machine likewise; a JSON file with some of
these names overrides them (`--costs`).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path


@dataclass(frozen=True)
class Costs:
    # The driver is one process, and Python runs one of its threads at a time: everything here adds up.
    driver_submit_s: float = 8e-6  # per task, `f.remote(x)` and its part of a push
    driver_result_s: float = 4e-6  # per task, its part of an answer, and of `get`
    driver_message_s: float = 15e-6  # per message that it sends or gets, whatever is in it
    worker_task_s: float = 7e-6  # per task, beside the user's code
    worker_message_s: float = 60e-6  # per message that a worker gets or sends: its two threads change places for it
    raylet_message_s: float = 50e-6  # per message that is for a raylet
    raylet_lease_s: float = 50e-6  # beside that, per lease asked for, granted or returned
    raylet_relay_s: float = 25e-6  # per frame that a raylet passes on
    head_message_s: float = 50e-6  # per message that is for the head; a beat is one
    head_lease_s: float = 20e-6  # beside that, per lease that it places
    local_s: float = 10e-6  # from one process of a node to another, which looks out for it: a Unix socket
    wake_s: float = 280e-6  # beside that, if it had nothing to do for so long that it sleeps (`run.pump.SPIN_S`)
    network_s: float = 140e-6  # from one node to another, as long as the line is free
    network_bytes_per_s: float = 1.25e9  # that leave a node: 10 Gbit/s
    frame_bytes: int = 100  # of a frame without tasks
    task_bytes: int = 110  # of each task in a push
    result_bytes: int = 40  # of each result in an answer

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value!r}: a cost is a number of at least 0")
        if not self.network_bytes_per_s:
            raise ValueError("network_bytes_per_s is 0: nothing would ever arrive")


def read_costs(path: Path | str) -> Costs:
    """The defaults, with what the file says otherwise.

    Raises:
        ValueError: it is no JSON object of the names above; the sentence says what is wrong.
    """
    try:
        given = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path} must hold one object, with costs by their names")
    known = {field.name for field in fields(Costs)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"{path} names {', '.join(unknown)}. Costs are: {', '.join(sorted(known))}")
    return replace(Costs(), **given)
