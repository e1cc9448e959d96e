"""`sparkray.util.metrics`, and what Prometheus reads of the session."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import sparkray
from sparkray import metrics_export
from sparkray.util.metrics import Counter, Gauge, Histogram


def read(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """By sample: labels and value. Prometheus' own client reads it."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    with sparkray.init(num_cpus=2, object_store_memory=128 << 20, _metrics_export_port=0) as session:
        yield session


def scrape(session: Any) -> dict[str, list[tuple[dict[str, str], float]]]:
    url = f"http://127.0.0.1:{session['metrics_export_port']}/metrics"
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return read(answer.read().decode())


def test_counts_of_all_processes_are_summed_up_and_stay_when_they_end(session: Any, until: Any) -> None:
    class Counts:
        def count(self, times: int) -> int:
            counter = Counter("things", description='of a "kind"\n', tag_keys=("kind",))
            histogram = Histogram("sizes", boundaries=[1, 10], tag_keys=("kind",))
            for _ in range(times):
                counter.inc(tags={"kind": 'a "b" \\ c'})
                histogram.observe(5, tags={"kind": "x"})
            Gauge("level").set(times)
            return os.getpid()

    actors = [sparkray.remote(Counts).remote() for _ in range(3)]
    sparkray.get([actor.count.remote(times) for actor, times in zip(actors, (1, 2, 3), strict=True)])
    mine = Counter("things", tag_keys=("kind",)).set_default_tags({"kind": 'a "b" \\ c'})
    mine.inc()
    mine.inc(2.5)
    found = scrape(session)
    assert (
        found["ray_things_total"] == [({"kind": 'a "b" \\ c'}, 9.5)]
        or sum(value for _, value in found["ray_things_total"]) == 9.5
    )
    assert {labels["le"]: value for labels, value in found["ray_sizes_bucket"]} == {"1": 0, "10": 6, "+Inf": 6}
    assert found["ray_sizes_count"] == [({"kind": "x"}, 6)]
    assert found["ray_sizes_sum"] == [({"kind": "x"}, 30)]
    assert sorted(value for _, value in found["ray_level"]) == [1, 2, 3]
    assert len({labels["WorkerId"] for labels, _ in found["ray_level"]}) == 3
    os.kill(sparkray.get(actors[1].count.remote(0)), signal.SIGKILL)  # after a scrape: what it had is remembered
    del actors[0]  # its farewell brings them
    until(lambda: len(scrape(session)["ray_level"]) == 1)
    assert sum(value for _, value in scrape(session)["ray_things_total"]) == 9.5


def test_the_engine_s_own(session: Any, until: Any) -> None:
    found = scrape(session)
    cpus = {labels["State"]: value for labels, value in found["ray_resources"] if labels["Name"] == "CPU"}
    assert sum(cpus.values()) == 2
    assert {labels["State"] for labels, _ in found["ray_tasks"]} >= {"PENDING_NODE_ASSIGNMENT"}
    ((_, size),) = found["ray_object_store_memory_bytes"]
    assert size == 128 << 20
    ref = sparkray.put(bytes(8 << 20))
    assert scrape(session)["ray_object_store_used_memory"][0][1] >= 8 << 20
    del ref
    until(lambda: scrape(session)["ray_object_store_used_memory"][0][1] < 8 << 20)
    assert found["ray_component_rss_bytes"]


def test_only_get_and_only_known_paths(session: Any) -> None:
    base = f"http://127.0.0.1:{session['metrics_export_port']}"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{base}/etc/passwd", timeout=60)
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(base, data=b"x", timeout=60)
    assert "ray_tasks" in metrics_export.metrics_text()


def test_it_serves_on_whatever_is_sent_to_it(session: Any) -> None:
    at = ("127.0.0.1", session["metrics_export_port"])
    dice = random.Random(1)
    line = b"GET /metrics HTTP/1.1\r\n\r\n"
    for _ in range(200):
        some = dice.choice(
            [
                b"",
                b"\0" * 20_000,
                b"GET\r\n\r\n",
                line[: dice.randrange(len(line))],
                dice.randbytes(dice.randrange(300)),
            ]
        )
        with contextlib.suppress(OSError), socket.create_connection(at, 10) as sock:
            sock.sendall(some)
            if dice.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
            elif dice.random() < 0.5:
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(10)
                sock.recv(100)

    assert scrape(session)["ray_tasks"]


def test_who_sends_a_request_byte_by_byte_holds_up_others_for_a_while_only(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_export, "_REQUEST_LIMIT_S", 0.5)
    ended = threading.Event()

    def trickle() -> None:
        sock = socket.create_connection(("127.0.0.1", session["metrics_export_port"]), 10)
        with sock, contextlib.suppress(OSError):
            while not ended.wait(0.05):
                sock.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        url = f"http://127.0.0.1:{session['metrics_export_port']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200
    finally:
        ended.set()
        thread.join()


def test_a_second_endpoint_and_a_taken_port(session: Any) -> None:
    other = metrics_export.serve()
    with pytest.raises(OSError, match="in use"):
        metrics_export.serve(other.port)
    other.close()


def test_what_ray_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="Empty name"):
        Counter("")
    with pytest.warns(UserWarning, match="Invalid metric name"):
        Counter("no-dash").inc()
    with pytest.raises(TypeError, match="tuple"):
        Counter("a", tag_keys="a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Tag keys"):
        Counter("a", tag_keys=(1,))  # type: ignore[arg-type]
    counter = Counter("a", tag_keys=("x", "y"))
    with pytest.raises(ValueError, match=r"Missing value for tag key.*: y"):
        counter.inc(tags={"x": "1"})
    with pytest.raises(ValueError, match="Unrecognized tag key z"):
        counter.set_default_tags({"z": "1"})
    with pytest.raises(TypeError, match="Tag values"):
        counter.inc(tags={"x": 1, "y": "2"})  # type: ignore[dict-item]
    for value in (0, -1):
        with pytest.raises(ValueError, match=">0"):
            counter.inc(value, tags={"x": "1", "y": "2"})
    with pytest.raises(TypeError, match="int or float"):
        Gauge("g").set("1")  # type: ignore[arg-type]
    for boundaries in (None, [], [0, 1], [2, 1]):
        with pytest.raises(ValueError, match="boundaries"):
            Histogram("h", boundaries=boundaries)
    histogram = Histogram("h", description="d", boundaries=[1.0], tag_keys=("x",))
    assert histogram.info == {
        "name": "h",
        "description": "d",
        "tag_keys": ("x",),
        "default_tags": {},
        "boundaries": [1.0],
    }
    assert pickle.loads(pickle.dumps(histogram)).info == histogram.info


def test_without_being_asked_nothing_listens(session: Any) -> None:
    """In a process of its own: there is a session here."""
    import subprocess
    import sys

    program = "import sparkray; print(sparkray.init(num_cpus=1)['metrics_export_port'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "None"
