"""An error that nobody looked at is told of when its last reference goes; one that somebody got is not."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray

LIMIT_S = 10.0


@sparkray.remote
def fail(text: str = "oh no", *_: Any) -> None:
    raise ValueError(text)


class Actor:
    def fail(self, text: str) -> None:
        raise ValueError(text)


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[int], list[str]]]:
    """Waits until so many were reported, and for a task that came after them; and returns their last lines."""

    def wait(expected: int) -> list[str]:
        deadline = time.monotonic() + LIMIT_S
        while True:
            # What was dropped before this is submitted is taken up before it; so no report is still to come.
            sparkray.get(sparkray.remote(len).remote("x"))
            found = [
                record.getMessage().strip().splitlines()[-1]
                for record in caplog.records
                if record.getMessage().startswith("Unhandled error (suppress with SPARKRAY_IGNORE_UNHANDLED_ERRORS=1)")
            ]
            if len(found) >= expected:
                return sorted(found)
            assert time.monotonic() < deadline, caplog.text
            time.sleep(0.01)

    with caplog.at_level(logging.ERROR):
        yield wait


def settle(*refs: Any) -> None:
    sparkray.wait(list(refs), num_returns=len(refs), timeout=LIMIT_S)


def test_errors_that_nobody_looked_at_are_reported(ray: Any, reports: Callable[[int], list[str]]) -> None:
    actor = ray.remote(Actor).remote()
    fail.remote("dropped at once")
    there = fail.remote("dropped when it was there")
    called = actor.fail.remote("of an actor")
    settle(there, called)
    del there, called
    assert reports(3) == [
        "ValueError: dropped at once",
        "ValueError: dropped when it was there",
        "ValueError: of an actor",
    ]


def test_errors_that_somebody_got_are_not(ray: Any, reports: Callable[[int], list[str]]) -> None:
    got, first, second, passed_on, awaited = (fail.remote(str(i)) for i in range(5))
    with pytest.raises(ValueError, match="0"):
        ray.get(got)
    with pytest.raises(ValueError, match=r"1|2"):
        ray.get([first, second])
    after = fail.remote("", passed_on)  # fails for its argument
    with pytest.raises(ValueError, match="3"):
        ray.get(after)
    with pytest.raises(ValueError, match="4"):
        awaited.future().result(LIMIT_S)
    settle(second)
    del got, first, second, passed_on, awaited, after

    @ray.remote
    def takes(refs: list[Any]) -> str:
        try:
            ray.get(refs[0])
        except ValueError as error:
            return str(error).splitlines()[-1]
        return "nothing"

    inside = fail.remote("inside")
    assert ray.get(takes.remote([inside])) == "ValueError: inside"
    del inside
    fail.remote("the only one")
    assert reports(1) == ["ValueError: the only one"]


def test_what_was_cancelled_or_killed_is_no_news(ray: Any, reports: Callable[[int], list[str]]) -> None:
    @ray.remote
    def sleep() -> None:
        time.sleep(60)

    cancelled = sleep.remote()
    ray.cancel(cancelled)
    settle(cancelled)
    actor = ray.remote(Actor).remote()
    ray.kill(actor)
    dead = actor.fail.remote("x")
    settle(dead)
    del cancelled, dead
    fail.remote("the only one")
    assert reports(1) == ["ValueError: the only one"]


def test_several_returns_are_one_error(ray: Any, reports: Callable[[int], list[str]]) -> None:
    one, two = fail.options(num_returns=2).remote("twice")
    settle(one, two)
    del one, two
    fail.remote("after it")
    assert reports(2) == ["ValueError: after it", "ValueError: twice"]


def test_a_worker_reports_what_its_tasks_dropped(ray: Any, capfd: pytest.CaptureFixture[str]) -> None:
    @ray.remote
    def outer() -> None:
        settled = fail.remote("in a worker")
        settle(settled)
        del settled
        ray.get(ray.remote(len).remote("x"))

    ray.get(outer.remote())
    deadline = time.monotonic() + LIMIT_S
    seen = ""
    while "ValueError: in a worker" not in seen:
        seen += capfd.readouterr().err
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    assert "Unhandled error" in seen


SCRIPT = """
import time, sparkray
sparkray.init(num_cpus=1)
@sparkray.remote
def fail():
    raise ValueError("boom")
{body}
sparkray.get(sparkray.remote(len).remote("x"))
"""


@pytest.mark.parametrize(
    ("body", "variables", "reported"),
    [
        ("fail.remote(); time.sleep(0.3)", {}, 1),
        ("fail.remote(); time.sleep(0.3)", {"SPARKRAY_IGNORE_UNHANDLED_ERRORS": "1"}, 0),
        ("fail.remote(); time.sleep(0.3)", {"RAY_IGNORE_UNHANDLED_ERRORS": "1"}, 0),
        ("kept = fail.remote(); sparkray.wait([kept])", {}, 0),  # the interpreter ends with it
    ],
)
def test_it_can_be_suppressed_and_the_end_of_the_driver_is_no_drop(
    body: str, variables: dict[str, str], reported: int
) -> None:
    import os

    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stderr.count("Unhandled error") == reported, ran.stderr
