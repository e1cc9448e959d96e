"""Cases of Ray's test_ray_init_2, test_runtime_context, test_advanced_8, test_runtime_env_setup_func: how it begins."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

import sparkray


@pytest.mark.parametrize("name", ["CPU", "GPU", "memory", "object_store_memory"])
def test_what_every_node_has_is_no_custom_resource(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} does not go into resources"):
        sparkray.init(resources={name: 100})
    with pytest.raises(ValueError, match=f"{name} does not go into resources"):
        sparkray.remote(resources={name: 100})(len)
    assert not sparkray.is_initialized()


def test_a_hook_that_cannot_be_pickled_is_refused_by_init() -> None:
    lock = threading.Lock()
    with pytest.raises(sparkray.exceptions.RuntimeEnvSetupError, match="Failed to export the setup function"):
        sparkray.init(num_cpus=1, runtime_env={"worker_process_setup_hook": lambda: lock.acquire()})
    assert not sparkray.is_initialized()


def test_asking_for_the_context_starts_a_session_which_tells_of_itself() -> None:
    assert sparkray.get_runtime_context().get_node_id()
    assert sparkray.is_initialized()
    sparkray.shutdown()

    with sparkray.init(num_cpus=1, _memory=2.5e9) as session:
        assert session.dashboard_url == session.address_info["webui_url"]
        assert session.python_version.startswith("3.")
        assert session.ray_version == sparkray.__version__
        assert session.ray_commit == ""
        assert sparkray.cluster_resources()["memory"] == 2.5e9
        with pytest.raises(KeyError):
            session["abc"]
        assert ("session_dir" in session, "abc" in session, session.get("abc")) == (True, False, None)


def test_where_no_session_may_start_by_itself_the_context_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
    context = sparkray.get_runtime_context()
    assert not sparkray.is_initialized()
    with pytest.raises(RuntimeError, match="has not been initialized"):
        context.get_job_id()


def test_functions_and_classes_go_from_session_to_session() -> None:
    @sparkray.remote
    def one() -> int:
        return 1

    @sparkray.remote
    class Two:
        def get(self) -> int:
            return 2

    for _ in range(2):
        with sparkray.init(num_cpus=2):
            assert sparkray.get(one.remote()) == 1
            assert sparkray.get(Two.remote().get.remote()) == 2

            @sparkray.remote
            def both(function: Any, cls: Any) -> object:
                return sparkray.get([function.remote(), cls.remote().get.remote()])

            assert sparkray.get(both.remote(one, Two)) == [1, 2]


def test_pickling_references_by_hand_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_allow_out_of_band_object_ref_serialization", "0")

    @sparkray.remote
    def by_hand() -> None:
        pickle.dumps(sparkray.put(1))

    @sparkray.remote
    def captures(ref: object) -> object:
        return ref

    with sparkray.init(num_cpus=1):
        ref = sparkray.put(1)
        with pytest.raises(sparkray.exceptions.OufOfBandObjectRefSerializationException, match="was pickled outside"):
            pickle.dumps(ref)
        with pytest.raises(sparkray.exceptions.OufOfBandObjectRefSerializationException):
            sparkray.get(by_hand.remote())
        assert sparkray.get(sparkray.get(sparkray.put([ref]))[0]) == 1
        assert sparkray.get(captures.remote(ref)) == 1
