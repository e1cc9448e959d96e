"""The head's list of jobs: one per driver, numbered in the order in which they came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparkray_core.ids import NodeId, ProcessId, node_of
from sparkray_core.model.bounded import Recent


@dataclass(slots=True)
class Job:
    number: int  # from 1
    driver: ProcessId
    facts: dict[str, Any]  # what the driver says of itself
    ended: str | None = None  # why, once it has

    @property
    def id(self) -> str:
        return job_id(self.number)

    def as_dict(self) -> dict[str, Any]:
        return {"job": self.id, "driver": self.driver, "ended": self.ended, **self.facts}


def job_id(number: int) -> str:
    """Four bytes in hexadecimal, as Ray has them."""
    return number.to_bytes(4, "little").hex()


class Jobs:
    def __init__(self, remembered: int) -> None:
        self.running: dict[ProcessId, Job] = {}
        self.ended: Recent[ProcessId, Job] = Recent(remembered)
        self._count = 0

    def register(self, driver: ProcessId, facts: dict[str, Any]) -> Job:
        """The driver's job; the same one if it asks again."""
        known = self.running.get(driver) or self.ended.get(driver)
        if known is not None:
            return known
        self._count += 1
        job = self.running[driver] = Job(self._count, driver, facts)
        return job

    def heir(self, driver: ProcessId) -> ProcessId | None:
        """Who is to own what a worker of this driver's job leaves behind; empty: of the oldest that still runs."""
        return driver if driver in self.running else None if driver else next(iter(self.running), None)

    def process_gone(self, process: ProcessId, why: str) -> None:
        job = self.running.pop(process, None)
        if job is not None:
            job.ended = why
            self.ended.remember(process, job)

    def node_gone(self, node: NodeId, why: str) -> None:
        for driver in [driver for driver in self.running if node_of(driver) == node]:
            self.process_gone(driver, why)

    def as_dicts(self) -> list[dict[str, Any]]:
        """All that are known, the oldest first."""
        jobs = [*self.ended.values(), *self.running.values()]
        return [job.as_dict() for job in sorted(jobs, key=lambda job: job.number)]
