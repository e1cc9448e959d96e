"""The head's list of jobs."""

from __future__ import annotations

from sparkray_core.ids import new_node_id, new_process_id
from sparkray_core.model.jobs import Jobs


def test_jobs_are_numbered_as_they_come_and_asked_twice_is_one() -> None:
    jobs, node = Jobs(remembered=10), new_node_id()
    first, second = new_process_id(node), new_process_id(node)

    assert [jobs.register(driver, {}).id for driver in (first, second, first)] == ["01000000", "02000000", "01000000"]


def test_a_job_ends_with_its_driver_or_its_driver_s_node() -> None:
    jobs, here, there = Jobs(remembered=10), new_node_id(), new_node_id()
    drivers = [new_process_id(here), new_process_id(here), new_process_id(there)]
    for pid, driver in enumerate(drivers):
        jobs.register(driver, {"pid": pid})

    jobs.process_gone(drivers[0], "killed")
    jobs.process_gone(new_process_id(here), "a worker, which is no job")
    jobs.node_gone(there, "silent")

    assert [(job["pid"], job["ended"]) for job in jobs.as_dicts()] == [(0, "killed"), (1, None), (2, "silent")]


def test_old_jobs_are_forgotten_but_their_numbers_are_not_given_again() -> None:
    jobs, node = Jobs(remembered=2), new_node_id()
    for _ in range(5):
        driver = new_process_id(node)
        jobs.register(driver, {})
        jobs.process_gone(driver, "done")

    assert [job["job"] for job in jobs.as_dicts()] == ["04000000", "05000000"]
    assert jobs.register(new_process_id(node), {}).number == 6
