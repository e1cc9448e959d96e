"""What tasks and actors know of themselves, retries of the user's exceptions, and small things of the API."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

LOCAL_MODE_TOO = True


def test_a_task_knows_who_it_is(ray: Any) -> None:
    @ray.remote
    def who() -> dict[str, Any]:
        context = ray.get_runtime_context()
        return {**context.get(), "name": context.get_task_name()}

    ref = who.remote()
    facts = ray.get(ref)
    assert facts["task_id"] == ref.task_id()
    assert facts["name"] == "who"
    assert "actor_id" not in facts
    (node,) = ray.nodes()
    assert facts["node_id"].hex() == node["NodeID"] == ray.get_runtime_context().get_node_id()
    assert ray.get_runtime_context().get_task_id() is None


@pytest.mark.needs_workers
def test_an_actor_knows_who_it_is_in_every_call_at_once(ray: Any) -> None:
    class Actor:
        async def who(self, seconds: float) -> tuple[str, str]:
            await asyncio.sleep(seconds)
            context = ray.get_runtime_context()
            return context.get_actor_id(), context.get_task_id()

        async def name(self) -> Any:
            return ray.get_runtime_context().get_actor_name()

    actor = ray.remote(Actor).options(name="its name").remote()
    refs = [actor.who.remote(0.05 - i * 0.01) for i in range(5)]
    answers = ray.get(refs, timeout=30)
    assert {actor_id for actor_id, _ in answers} == {actor._actor.id.hex()}
    assert [task_id for _, task_id in answers] == [ref.task_id().hex() for ref in refs]
    assert ray.get(actor.name.remote()) == "its name"


def test_retry_exceptions_calls_again_after_the_classes_it_names(ray: Any, tmp_path: Any) -> None:
    def attempts(name: str, **options: Any) -> tuple[Any, int]:
        path = tmp_path / name

        @ray.remote(**options)
        def flaky(error: type[Exception]) -> str:
            with path.open("a") as file:
                file.write("x")
            if len(path.read_text()) < 3:
                raise error("again")
            return "done"

        try:
            result: Any = ray.get(flaky.remote(ValueError), timeout=30)
        except ValueError:
            result = ValueError
        return result, len(path.read_text())

    assert attempts("all", retry_exceptions=True) == ("done", 3)
    assert attempts("named", retry_exceptions=[OSError, ValueError]) == ("done", 3)
    assert attempts("others", retry_exceptions=[OSError]) == (ValueError, 1)
    assert attempts("none") == (ValueError, 1)
    assert attempts("few", retry_exceptions=True, max_retries=1) == (ValueError, 2)
    with pytest.raises(TypeError, match="list of exception classes"):
        ray.remote(retry_exceptions=[5])(print)


def test_a_copy_can_be_written_to(ray: Any) -> None:
    ref = ray.put([np.zeros(1 << 18), np.zeros(3)])
    large, small = ray.get(ref, copy=True)
    large[0] = small[0] = 1
    assert ray.get(ref)[0][0] == 0


@pytest.mark.needs_workers
def test_available_resources_follow_what_is_in_use(ray: Any) -> None:
    @ray.remote(resources={"special": 1})
    def hold(seconds: float) -> None:
        time.sleep(seconds)

    def wait_for_special(there: bool) -> None:
        deadline = time.monotonic() + 15
        while ("special" in ray.available_resources()) != there:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    wait_for_special(True)
    ref = hold.remote(60)
    wait_for_special(False)
    ray.cancel(ref)
    wait_for_special(True)


@pytest.mark.needs_workers
def test_wait_async_lets_others_run(ray: Any) -> None:
    @ray.remote
    def after(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    async def main() -> None:
        refs = [after.remote(60), after.remote(0.2)]
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        assert await ray.wait_async(refs, timeout=40) == ([refs[1]], [refs[0]])
        assert ticks > 5
        assert await ray.wait_async(refs, num_returns=2, timeout=0.01) == ([refs[1]], [refs[0]])
        assert await ray.wait_async([]) == ([], [])
        ticking.cancel()
        ray.cancel(refs[0])

    asyncio.run(main())
