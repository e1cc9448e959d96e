"""Settings reach every process of a session, and a wrong one starts nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparkray as ray
from sparkray.exceptions import TaskUnschedulableError
from sparkray_core.run import object_ref
from sparkray_core.settings import BadSetting


@pytest.fixture(autouse=True)
def no_session() -> Iterator[None]:
    ray.shutdown()
    yield
    ray.shutdown()


def test_settings_reach_driver_worker_and_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKRAY_STORE_WAIT_S", "0.5")
    ray.init(num_cpus=1, inline_bytes=10, settings={"infeasible_grace_s": 0.1, "prestart_workers": 0})

    @ray.remote
    def seen() -> dict[str, object]:
        assert object_ref.current is not None
        return object_ref.current.settings.changed()

    @ray.remote(resources={"never": 1})
    def impossible() -> None: ...

    expected = {"store_wait_s": 0.5, "inline_bytes": 10, "infeasible_grace_s": 0.1, "prestart_workers": 0}
    found = ray.get(seen.remote())
    for of_this_test_run in ("base_folder", "object_store_warm_bytes"):
        found.pop(of_this_test_run, None)
    assert found == expected
    with pytest.raises(TaskUnschedulableError):
        ray.get(impossible.remote(), timeout=10)


def test_the_folder_and_what_is_kept_of_it(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    base = f"/tmp/sparkray-{os.getuid()}-x{os.getpid()}"
    session = ray.init(num_cpus=1, base_folder=base, keep_logs=str(kept))
    assert session["session_dir"].startswith(base + "/")
    ray.shutdown()
    os.rmdir(base)
    assert list(kept.glob("*/raylet.log"))


def test_a_wrong_setting_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting, match="inline_bytes must be a whole number"):
        ray.init(inline_bytes="big")
    with pytest.raises(BadSetting, match="no setting inline_byte"):
        ray.init(settings={"inline_byte": 1})
    with pytest.raises(BadSetting, match="must be a dict"):
        ray.init(settings=3)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"Unknown keyword .* to init\(\): inline_byte\. .*inline_bytes\?"):
        ray.init(inline_byte=1)
    monkeypatch.setenv("SPARKRAY_INLINE_BYTE", "1")
    with pytest.raises(BadSetting, match="SPARKRAY_INLINE_BYTE"):
        ray.init()
    assert not ray.is_initialized()


def test_of_rays_system_config_what_is_known_counts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ray.init(
            num_cpus=1,
            _system_config={"max_direct_call_object_size": 11, "reply_limit_s": 12, "object_timeout_ms": 3, "b": 1},
        )
    assert object_ref.current is not None
    assert object_ref.current.settings.inline_bytes == 11
    assert object_ref.current.settings.reply_limit_s == 12.0
    assert [record.getMessage().split(":")[1] for record in caplog.records] == [" b, object_timeout_ms"]


@pytest.mark.parametrize("name", ["SPARKRAY_ENABLE_AUTO_CONNECT", "RAY_ENABLE_AUTO_CONNECT"])
def test_no_session_starts_by_itself_where_that_is_forbidden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0")
    with pytest.raises(ray.exceptions.RaySystemError, match=r"call init\(\) first"):
        ray.put(1)
    assert not ray.is_initialized()


def test_a_function_larger_than_the_limit_is_refused_by_the_settings_name() -> None:
    ray.init(num_cpus=1, function_limit_bytes=2000)
    ballast = b"x" * 3000
    with pytest.raises(ValueError, match="function_limit_bytes"):
        ray.remote(lambda: ballast).remote()
