"""`get_runtime_context()` in driver, tasks and actors; where objects are; small helps."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import numpy as np
import pytest

from sparkray.util import get_node_ip_address, log_once


def test_in_the_driver(ray: Any, caplog: Any) -> None:
    context = ray.get_runtime_context()
    with caplog.at_level("WARNING"):
        assert context.get_task_id() is None
    assert "get_task_id" in caplog.text
    assert context.get_task_name() is context.get_task_function_name() is context.get_actor_id() is None
    assert context.get_actor_name() is context.get_placement_group_id() is None
    with pytest.raises(AssertionError):
        context.get_assigned_resources()
    with pytest.raises(RuntimeError, match="worker"):
        context.is_canceled()
    with pytest.raises(RuntimeError, match="actor"):
        _ = context.current_actor
    assert context.namespace == "observed"
    assert context.gcs_address == ray.session.current()["gcs_address"]
    assert os.path.isdir(os.path.join(context.get_temp_dir(), context.get_session_name()))
    assert context.get_accelerator_ids() == {"GPU": []}
    assert get_node_ip_address() == ray.nodes()[0]["NodeManagerAddress"]


def test_in_a_task(ray: Any) -> None:
    @ray.remote(num_cpus=0.5, name="called so")
    def asks() -> dict[str, Any]:
        context = ray.get_runtime_context()
        return {
            "resources": context.get_assigned_resources(),
            "name": context.get_task_name(),
            "function": context.get_task_function_name(),
            "gcs": context.gcs_address,
            "session": context.get_session_name(),
            "actor": context.get_actor_name(),
            "canceled": context.is_canceled(),
            "labels": context.get_node_labels(),
            "gpus": ray.get_gpu_ids(),
        }

    context = ray.get_runtime_context()
    assert ray.get(asks.remote()) == {
        "resources": {"CPU": 0.5},
        "name": "called so",
        "function": f"{__name__}.asks",
        "gcs": context.gcs_address,
        "session": context.get_session_name(),
        "actor": None,
        "canceled": False,
        "labels": {"ray.io/node-id": context.get_node_id()},
        "gpus": [],
    }


def test_in_actors(ray: Any) -> None:
    class Actor:
        def about(self) -> Any:
            context = ray.get_runtime_context()
            return context.get_assigned_resources(), context.get_actor_name(), context.get_task_function_name()

        def me(self) -> Any:
            return ray.get_runtime_context().current_actor

        def restarted(self) -> bool:
            return bool(ray.get_runtime_context().was_current_actor_reconstructed)

    plain = ray.remote(Actor).remote()
    held = ray.remote(Actor).options(num_cpus=1, name="held").remote()
    assert ray.get(plain.about.remote()) == ({}, "", f"{__name__}.Actor.about")
    assert ray.get(held.about.remote())[:2] == ({"CPU": 1.0}, "held")
    me = ray.get(held.me.remote())
    assert me._actor.id == held._actor.id
    assert ray.get(me.restarted.remote()) is False


def test_a_cancelled_task_that_goes_on_can_ask(ray: Any, until: Any, tmp_path: Any) -> None:
    path = tmp_path / "sleeps"

    @ray.remote
    def stubborn() -> bool:
        try:
            path.touch()
            time.sleep(600)
        except KeyboardInterrupt:
            return bool(ray.get_runtime_context().is_canceled())
        return False

    ref = stubborn.remote()
    until(path.exists)
    ray.cancel(ref)
    assert ray.get(ref, timeout=60) is True

    class Async:
        async def ask(self) -> str:
            await asyncio.sleep(0)
            try:
                return str(ray.get_runtime_context().is_canceled())
            except RuntimeError as error:
                return str(error)

    assert "async actor" in ray.get(ray.remote(Async).remote().ask.remote())


def test_where_objects_are(ray: Any) -> None:
    large, small = ray.put(np.zeros(1 << 20)), ray.put(1)
    found = ray.experimental.get_object_locations([large, small])
    assert found[large]["node_ids"] == [ray.get_runtime_context().get_node_id()]
    assert found[large]["object_size"] >= 8 << 20
    assert found[small]["node_ids"] == found[large]["node_ids"]
    assert 0 < found[small]["object_size"] < 100
    assert ray.experimental.get_local_object_locations([large]) == {large: found[large]}


def test_log_once() -> None:
    assert [log_once("a key of this test") for _ in range(3)] == [True, False, False]
