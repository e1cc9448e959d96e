"""A session whose GCS writes to a Redis server: it outlives its GCS, shows the password nowhere, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import sparkray
from sparkray_core.run.start import NodeStartError
from tests.api.test_kills import Counter, kill_gcs, processes_of
from tests.redis_server import PASSWORD, RedisServer, redis_server

LIMIT_S = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as made:
        yield made


@sparkray.remote
def environment_and_settings() -> str:
    from sparkray_core.run import object_ref

    assert object_ref.current is not None
    return f"{dict(os.environ)} {object_ref.current.settings.changed()}"


def test_the_session_outlives_its_gcs_shows_no_password_and_leaves_nothing(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKRAY_GCS_STORAGE", server.url)
    try:
        session = sparkray.init(num_cpus=1, settings={"keep_logs": str(tmp_path), "log_level": "DEBUG"})
        counter = Counter.options(name="counter").remote()
        assert sparkray.get(counter.add.remote(), timeout=LIMIT_S) == 1
        assert len(server.keys()) == 1
        assert not list(Path(session["session_dir"]).glob("gcs.sqlite*"))

        kill_gcs(session)

        fresh = Counter.remote()
        assert sparkray.get([fresh.add.remote(), counter.add.remote()], timeout=LIMIT_S) == [1, 2]
        assert sparkray.get_actor("counter") is not None
        assert PASSWORD not in sparkray.get(environment_and_settings.remote(), timeout=LIMIT_S)
        for _, process in processes_of(session["session_dir"]):
            with contextlib.suppress(psutil.Error):
                assert PASSWORD not in f"{process.cmdline()} {process.environ()}"
    finally:
        sparkray.shutdown()
    assert server.keys() == []
    logs = [path.read_text() for path in tmp_path.rglob("*.log")]
    assert any("going on with the session" in text for text in logs)
    assert not any(PASSWORD in text for text in logs)


def test_a_server_that_cannot_be_used_is_told_of_at_the_start(server: RedisServer) -> None:
    with pytest.raises(NodeStartError, match=f"{server.path} cannot be used: invalid username-password pair") as caught:
        sparkray.init(num_cpus=1, gcs_storage=server.url.replace(PASSWORD, "wrong-password"))
    assert "wrong-password" not in str(caught.value)
    with pytest.raises(ValueError, match="gcs_storage must be a URL that begins with one of redis://") as refused:
        sparkray.init(gcs_storage=f"http://:{PASSWORD}@host")
    assert PASSWORD not in str(refused.value)
