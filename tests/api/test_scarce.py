"""Memory and priority, on a session that is short of both."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import sparkray
from sparkray.exceptions import ActorDiedError


def test_memory_and_priority_on_a_small_session(tmp_path: Path) -> None:
    ray = sparkray
    ray.init(num_cpus=1, _memory=1000, resources={"accelerator_type:T4": 1}, settings={"infeasible_grace_s": 0.2})
    try:

        @ray.remote(memory=600, num_cpus=0)
        def holds(path: str) -> str:
            while not os.path.exists(path):
                time.sleep(0.005)
            return "held"

        @ray.remote(num_cpus=0)
        def note(path: str, what: str) -> None:
            with open(path, "a") as lines:
                lines.write(f"{what}\n")

        gate = tmp_path / "gate"
        first, second = holds.remote(str(gate)), holds.options(memory=500).remote(str(gate))
        assert ray.wait([first, second], num_returns=2, timeout=0.3)[0] == []
        assert ray.available_resources()["memory"] in (400.0, 500.0)
        gate.touch()
        assert ray.get([first, second], timeout=60) == ["held"] * 2
        assert ray.get(note.options(accelerator_type="T4").remote(str(tmp_path / "x"), "x"), timeout=60) is None
        with pytest.raises(ray.exceptions.TaskUnschedulableError):
            ray.get(note.options(memory=2000).remote("", ""), timeout=60)

        class Holder:
            def ping(self) -> None: ...

        actor = ray.remote(memory=2000)(Holder).remote()
        with pytest.raises(ActorDiedError, match="can ever hold"):
            ray.get(actor.ping.remote(), timeout=60)

        # One CPU, and it is busy: what is more urgent goes before what was there first.
        order, busy = tmp_path / "order", tmp_path / "busy"
        one = note.options(num_cpus=1)
        blocker = holds.options(num_cpus=1, memory=0).remote(str(busy))
        refs = [one.remote(str(order), f"plain {n}") for n in range(5)]
        refs += [one.options(priority=-1).remote(str(order), "low"), one.options(priority=3).remote(str(order), "high")]
        ray.wait(refs, timeout=0.2)
        busy.touch()
        ray.get([blocker, *refs], timeout=60)
        ran = order.read_text().splitlines()
        assert ran[0] == "high"
        assert ran[-1] == "low"
    finally:
        ray.shutdown()
