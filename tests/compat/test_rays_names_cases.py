"""Cases of Ray's test_ids, test_advanced_3, test_async, test_runtime_context, test_get_locations: names in use."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import pickle
import queue
import threading
from typing import Any

import numpy as np
import pytest

import sparkray
from sparkray import exceptions

IDS = [sparkray.ActorID, sparkray.JobID, sparkray.NodeID, sparkray.TaskID, sparkray.UniqueID, sparkray.WorkerID]


# ------------------------------------------------------------------ ids
@pytest.mark.parametrize("cls", IDS)
def test_an_id_is_made_from_bytes_or_hex_and_gives_them_back(cls: Any) -> None:
    made = cls.from_random()

    assert cls(made.binary()) == cls.from_binary(made.binary()) == cls.from_hex(made.hex()) == made
    assert hash(cls.from_hex(made.hex())) == hash(made)
    assert (len(made.binary()), cls.size(), made.size()) == (cls.size(),) * 3
    assert repr(made) == str(made) == f"{cls.__name__}({made.hex()})"
    assert pickle.loads(pickle.dumps(made)) == made
    assert type(pickle.loads(pickle.dumps(made))) is cls
    assert not made.is_nil()
    assert cls.nil().is_nil()
    assert cls.nil().hex() == "ff" * cls.size()
    for wrong in (b"12345", made.binary() + b"1", made.hex()):
        with pytest.raises(ValueError, match="needs to have length"):
            cls(wrong)


def test_ids_of_the_context_and_of_references_are_those_classes(ray: Any) -> None:
    context = ray.get_runtime_context()
    facts = context.get()

    assert facts.keys() == {"job_id", "node_id", "worker_id", "namespace"}
    assert facts["job_id"] == ray.JobID.from_hex(context.get_job_id())
    assert facts["node_id"] == ray.NodeID.from_hex(context.get_node_id())
    assert facts["worker_id"] == ray.WorkerID.from_hex(context.get_worker_id())

    @ray.remote
    def of_task() -> Any:
        here = ray.get_runtime_context()
        return here.get(), here.get_task_id(), here.get_job_id()

    @ray.remote
    class Asked:
        def of_actor(self) -> Any:
            here = ray.get_runtime_context()
            return here.get(), here.get_task_id(), here.get_actor_id()

    ref = of_task.remote()
    facts, task, job = ray.get(ref)
    assert "actor_id" not in facts
    assert facts["task_id"].hex() == task == ref.task_id().hex()
    assert facts["job_id"].hex() == job == ref.job_id().hex() == context.get_job_id()

    asked = Asked.remote()
    ref = asked.of_actor.remote()
    facts, task, actor = ray.get(ref)
    assert (facts["task_id"].hex(), facts["actor_id"].hex()) == (task, actor)
    assert type(facts["actor_id"]) is ray.ActorID
    assert type(ref.task_id()) is ray.TaskID


def test_the_context_s_older_names_work_and_warn(ray: Any) -> None:
    context = ray.get_runtime_context()

    for name in ("job_id", "node_id"):
        with pytest.warns(DeprecationWarning, match=rf"Use get_{name}\(\) instead"):
            found = getattr(context, name)
        assert found.hex() == getattr(context, f"get_{name}")()
    for name in ("task_id", "actor_id"):
        with pytest.warns(DeprecationWarning, match=name):
            assert getattr(context, name) is None
    assert context.get_dashboard_url() == ""


def test_a_thread_of_a_task_is_of_its_job(ray: Any) -> None:
    @ray.remote
    def look() -> list[Any]:
        seen: list[Any] = []

        def ask() -> None:
            seen.append((ray.get_runtime_context().get_job_id(), ray.get(ray.put(1))))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        ask()
        return seen

    assert ray.get(look.remote()) == [(ray.get_runtime_context().get_job_id(), 1)] * 2


# ------------------------------------------------------------------ references
def test_a_reference_tells_of_itself(ray: Any) -> None:
    ref = ray.put(1)

    assert ray.ObjectID is ray.ObjectRef
    assert (len(ref.hex()), len(ref.binary()), ref.size()) == (56, 28, 28)
    assert not ref.is_nil()
    assert type(ref.owner_address()) is bytes
    assert ref.call_site() == ""
    assert ray.ObjectRef.from_binary(ref.binary()) == ref
    with pytest.raises(ValueError, match="needs to have length 28"):
        ray.ObjectRef.from_binary(b"too short")
    with pytest.raises(NotImplementedError):
        ray.ObjectRef.from_hex(ref.hex())
    with pytest.raises(TypeError):
        iter(ref)
    assert ref


def test_references_to_nothing_are_refused_and_harm_nobody(ray: Any) -> None:
    nil = ray.ObjectRef.nil()

    assert nil.is_nil()
    assert ray.ObjectRef.nil() == nil == ray.ObjectRef.from_binary(nil.binary())
    assert ray.ObjectRef.from_random() != ray.ObjectRef.from_random()
    for ref in (nil, ray.ObjectRef.from_random()):
        with pytest.raises(ValueError, match="owner is unknown"):
            ray.get(ref)
    del nil, ref
    assert ray.get(ray.put(2)) == 2


def test_a_generator_knows_its_task(ray: Any) -> None:
    @ray.remote
    def items() -> Any:
        yield ray.get_runtime_context().get_task_id()

    made = items.remote()
    assert made.task_id().hex() == ray.get(next(made))


# ------------------------------------------------------------------ futures
def test_references_go_with_asyncio_s_tools(ray: Any, new_gate: Any) -> None:
    gate = new_gate()

    @ray.remote
    def fail() -> None:
        raise ValueError("of a task")

    @ray.remote
    def same(value: object) -> object:
        return value

    async def main() -> None:
        refs = [same.remote(index) for index in range(5)]
        assert await asyncio.gather(*(ref.as_future() for ref in refs)) == [0, 1, 2, 3, 4]
        assert [*await asyncio.gather(same.remote(1), asyncio.sleep(0, result=2), same.remote(3))] == [1, 2, 3]
        assert await asyncio.wait_for(same.remote(4), 30) == 4

        early, late = same.remote("early").as_future(), gate.wait.remote().as_future()
        done, pending = await asyncio.wait([early, late], return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({early}, {late})
        late.cancel()
        gate.open.remote()
        with pytest.raises(ValueError, match="of a task"):
            await fail.remote().as_future()
        assert np.array_equal(await same.remote(np.ones(1 << 20)).as_future(), np.ones(1 << 20))

    asyncio.run(main())


def test_a_loop_that_does_not_run_yet_may_be_given_the_future(ray: Any) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        assert loop.run_until_complete(ray.put(3).as_future()) == 3
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_futures_of_threads_and_callbacks(ray: Any) -> None:
    @ray.remote
    def same(value: object) -> object:
        return value

    @ray.remote
    def fail() -> None:
        raise ValueError("of a task")

    futures = [same.remote(index).future() for index in range(20)]
    assert {one.result() for one in concurrent.futures.as_completed(futures, timeout=30)} == set(range(20))
    assert isinstance(fail.remote().future().exception(timeout=30), ValueError)

    outcomes: queue.Queue[Any] = queue.Queue()
    ready = same.remote(5)
    ray.wait([ready])
    for ref in (same.remote(5), ready):
        ref._on_completed(outcomes.put)
        assert outcomes.get(timeout=30) == 5
    fail.remote()._on_completed(outcomes.put)
    assert isinstance(outcomes.get(timeout=30), ValueError)


# ------------------------------------------------------------------ where objects are
def test_locations_tell_size_and_node_of_small_and_large_values(ray: Any, new_gate: Any) -> None:
    gate = new_gate()
    node = ray.get_runtime_context().get_node_id()
    sizes = [100, 1000, 1 << 20]
    refs = [ray.put(np.zeros(size, np.uint8)) for size in sizes]

    found = ray.experimental.get_object_locations(refs)
    assert [found[ref]["node_ids"] for ref in refs] == [[node]] * 3
    assert all(found[ref]["object_size"] > size for ref, size in zip(refs, sizes, strict=True))
    assert ray.experimental.get_object_locations([]) == {}

    pending = gate.wait.remote()
    (found,) = ray.experimental.get_local_object_locations([pending]).values()
    assert (found["node_ids"], found["object_size"]) == ([], None)
    gate.open.remote()


# ------------------------------------------------------------------ modules and classes
MODULES = """
    actor cloudpickle data exceptions experimental job_config remote_function runtime_context runtime_env types util
    util.accelerators util.actor_pool util.check_serialize util.joblib util.metrics util.multiprocessing
    util.multiprocessing.pool util.queue util.serialization util.state
"""


@pytest.mark.parametrize("name", MODULES.split())
def test_a_module_is_where_ray_has_it(name: str) -> None:
    assert importlib.import_module(f"sparkray.{name}").__name__ == f"sparkray.{name}"


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("AsyncioActorExit", exceptions.RayError),
        ("CrossLanguageError", exceptions.RayError),
        ("LocalRayletDiedError", exceptions.RayError),
        ("ObjectFetchTimedOutError", exceptions.ObjectLostError),
        ("ObjectFreedError", exceptions.ObjectLostError),
        ("ObjectRefStreamEndOfStreamError", exceptions.RayError),
        ("OufOfBandObjectRefSerializationException", exceptions.RayError),
        ("PlasmaObjectNotAvailable", exceptions.RayError),
        ("RayCgraphCapacityExceeded", exceptions.RaySystemError),
        ("RayChannelError", exceptions.RaySystemError),
        ("RayChannelTimeoutError", TimeoutError),
        ("RayDirectTransportError", exceptions.RaySystemError),
        ("ReferenceCountingAssertionError", AssertionError),
        ("RpcError", exceptions.RayError),
        ("StreamingGeneratorReplayInconsistentError", exceptions.RaySystemError),
        ("UserCodeException", exceptions.RayError),
    ],
)
def test_an_except_clause_may_name_all_of_rays_errors(name: str, base: type[Exception]) -> None:
    assert issubclass(getattr(exceptions, name), base)


def test_an_accelerator_s_name_is_a_type_to_ask_for(ray: Any) -> None:
    from sparkray.util.accelerators import NVIDIA_TESLA_V100

    @ray.remote(accelerator_type=NVIDIA_TESLA_V100)
    def needs_one() -> None: ...

    (asked,) = [name for name in needs_one._options.task_resources() if name.startswith("accelerator_type:")]
    assert asked == "accelerator_type:V100"
