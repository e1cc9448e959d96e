"""`timeline()`: Chrome trace events of what ran."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import numpy as np
import pytest


def spans(events: Any) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["ph"] == "X":
            found.setdefault(event["name"], []).append(event)
    return found


def test_events_tell_what_ran_where_and_for_how_long(ray: Any, tmp_path: Any) -> None:
    @ray.remote
    def sleeps(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    @ray.remote
    def breaks() -> None:
        raise KeyError("broken")

    @ray.remote
    def nested() -> int:
        return len(ray.get(stored.remote()))

    @ray.remote
    def stored() -> Any:
        return np.zeros(1 << 20)

    class Actor:
        def work(self) -> None:
            time.sleep(0.05)

    begin = time.time()
    refs = [sleeps.remote(0.2), sleeps.remote(0.2)]
    pids = ray.get(refs)
    with pytest.raises(KeyError):
        ray.get(breaks.remote())
    assert ray.get(nested.remote()) == 1 << 20
    actor = ray.remote(Actor).remote()
    ray.get(actor.work.remote())
    path = tmp_path / "trace.json"
    assert ray.timeline(str(path)) is None
    events = json.loads(path.read_text())
    for event in events:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["args"], dict)
        if event["ph"] == "X":
            assert {"cat", "name", "ts", "dur"} <= event.keys()
            assert event["dur"] >= 0
    by_name = spans(events)
    assert {event["args"]["task_id"] for event in by_name["sleeps"]} == {ref.task_id().hex() for ref in refs}
    assert {event["tid"] for event in by_name["sleeps"]} == set(pids)
    for event in by_name["sleeps"]:
        assert event["dur"] >= 0.19e6
        assert begin - 1 < event["ts"] / 1e6 < time.time() + 1
        assert event["cat"] == "task"
    (broken,) = by_name["breaks"]
    assert broken["args"]["state"] == "FAILED"
    assert "KeyError" in broken["args"]["error"]
    (call,) = by_name["Actor.work"]
    assert (call["cat"], call["args"]["actor_id"]) == ("actor", actor._actor.id.hex())
    (outer,) = by_name["nested"]
    inside = [
        event
        for event in by_name["get"]
        if event["tid"] == outer["tid"] and outer["ts"] - 1e3 <= event["ts"] <= outer["ts"] + outer["dur"]
    ]
    assert inside, "the wait inside of the task is shown within it"
    assert [event for event in by_name["put"] if "bytes" in event["args"]["note"]]
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert {(event["pid"], event["tid"]) for event in events if event["ph"] == "X"} <= named


def test_calls_at_once_have_rows_of_their_own(ray: Any) -> None:
    class Threads:
        def work(self) -> None:
            time.sleep(0.3)

    actor = ray.remote(Threads).options(max_concurrency=3).remote()
    ray.get([actor.work.remote() for _ in range(3)])
    events = spans(ray.timeline())["Threads.work"]
    ends: dict[int, float] = {}
    for event in sorted(events, key=lambda event: event["ts"]):
        assert ends.get(event["tid"], 0.0) <= event["ts"]
        ends[event["tid"]] = event["ts"] + event["dur"]
    assert len(events) == 3


def test_a_running_task_is_shown_as_far_as_it_has_come(ray: Any, until: Any) -> None:
    @ray.remote
    def long() -> None:
        time.sleep(600)

    ref = long.remote()
    until(lambda: [e for e in spans(ray.timeline()).get("long", []) if e["args"]["state"] == "RUNNING"])
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
