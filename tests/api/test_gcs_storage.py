"""A session whose GCS writes to a Redis server: it outlives its GCS, shows the password nowhere, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import sparkray
from sparkray_core.run.start import NodeStartError
from tests.api.test_kills import Counter, kill_gcs, processes_of, the_one
from tests.redis_server import PASSWORD, RedisServer, redis_server
from tests.waiting import wait_until

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


@sparkray.remote
def make(number: int) -> int:
    return number


@sparkray.remote
def give() -> tuple[int, list[Any]]:
    """A process, and a reference to what it owns."""
    given = make.remote(7)
    sparkray.wait([given], timeout=LIMIT_S)
    return os.getpid(), [given]


@pytest.mark.slow
def test_each_shard_of_the_gcs_has_tables_of_its_own_on_it_and_goes_on_from_them(server: RedisServer) -> None:
    session = sparkray.init(num_cpus=1, gcs_storage=server.url, settings={"gcs_shards": 2})
    folder = session["session_dir"]
    try:
        owner, (given,) = sparkray.get(give.remote(), timeout=LIMIT_S)
        assert len(server.keys()) == 3  # the head's, too
        shards = [the_one(f"gcs shard {number}", folder) for number in range(2)]
        kill_gcs(session)
        for shard in shards:
            shard.kill()
        os.kill(owner, signal.SIGKILL)
        assert sparkray.get(given, timeout=LIMIT_S) == 7  # another has taken it over, by what the shard knew
        titles = {"sparkray: gcs shard 0", "sparkray: gcs shard 1"}
        wait_until(lambda: titles <= {title for title, _ in processes_of(folder)}, "others go on", LIMIT_S)
        assert len(server.keys()) == 3
    finally:
        sparkray.shutdown()
    assert server.keys() == []


def test_a_server_that_cannot_be_used_is_told_of_at_the_start(server: RedisServer) -> None:
    with pytest.raises(NodeStartError, match=f"{server.path} cannot be used: invalid username-password pair") as caught:
        sparkray.init(num_cpus=1, gcs_storage=server.url.replace(PASSWORD, "wrong-password"))
    assert "wrong-password" not in str(caught.value)
    with pytest.raises(ValueError, match="gcs_storage must be a URL that begins with one of redis://") as refused:
        sparkray.init(gcs_storage=f"http://:{PASSWORD}@host")
    assert PASSWORD not in str(refused.value)
