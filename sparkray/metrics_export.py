"""The session's metrics in Prometheus' text format, and an endpoint that gives them.

Everything is gathered when somebody scrapes: each process is asked once. Names of Ray's metrics are Ray's.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from sparkray.session import core
from sparkray_core.ids import HEAD, ProcessId, node_of
from sparkray_core.model.node_answers import added
from sparkray_core.run.core import Core
from sparkray_core.run.survey import ask_nodes, ask_processes

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "ray_"
_REQUEST_LIMIT_S = 5.0  # for a client to send its request, and as long to take the answer: others wait meanwhile
_MOST_REQUEST = 16 << 10  # bytes
_PAUSE_S = 0.1  # when this process has no descriptor left for a client

Labels = Mapping[str, str]


class Exporter:
    """Remembers what processes that were killed had counted at the last scrape, so that sums do not shrink."""

    def __init__(self, here: Core) -> None:
        self._core = here
        self._seen: dict[ProcessId, dict[Any, Any]] = {}  # by process: what it had counted
        self._lost: dict[Any, Any] = {}  # of processes that ended without a farewell
        self._lock = threading.Lock()

    def text(self) -> str:
        """All metrics of the session, in Prometheus' text format."""
        page = _Page()
        with self._lock:
            survey = ask_processes(self._core, "metrics")
            survey.warn("the metrics")
            self._users(page, survey.answers)
            _engine(self._core, page, survey.answers)
        return page.text()

    def _users(self, page: _Page, answers: Mapping[ProcessId, Any]) -> None:
        sums: dict[Any, Any] = {}
        left: set[ProcessId] = set()
        for counters, counted in ask_nodes(self._core, "counters").answers.values():
            left.update(counted)
            _sum_up(sums, counters)
        for process in [process for process in self._seen if process not in answers]:
            counted = self._seen.pop(process)
            if process not in left:
                _sum_up(self._lost, counted)
        _sum_up(sums, self._lost)
        for process, facts in answers.items():
            own: dict[Any, Any] = {}
            for *described, values in facts["metrics"]:
                kind, name, description, keys, _ = described
                for tags, value in values:
                    if kind == "Gauge":
                        labels = {**dict(zip(keys, tags, strict=True)), "WorkerId": process.hex()}
                        page.add(_PREFIX + name, "gauge", description, labels, value)
                    else:
                        own[(*described, tags)] = value
            if process not in left:  # else it has ended since it answered, and what it left was summed up above
                _sum_up(sums, own)
                self._seen[process] = own
        for (kind, name, description, keys, boundaries, tags), value in sums.items():
            labels = dict(zip(keys, tags, strict=True))
            if kind == "Counter":
                page.add(f"{_PREFIX}{name}_total", "counter", description, labels, value)
            else:
                page.histogram(_PREFIX + name, description, labels, boundaries, value)


def _sum_up(sums: dict[Any, Any], more: Mapping[Any, Any]) -> None:
    for key, value in more.items():
        sums[key] = added(sums.get(key), value)


def _engine(here: Core, page: _Page, answers: Mapping[ProcessId, Any]) -> None:
    """The engine's own."""
    facts = answers.values()
    queued, pushed = sum(one["queued"] for one in facts), sum(one["pushed"] for one in facts)
    pending = sum(one["pending"] for one in facts)
    states = {
        "PENDING_ARGS_AVAIL": max(0, pending - queued - pushed),
        "PENDING_NODE_ASSIGNMENT": queued,
        "SUBMITTED_TO_WORKER": pushed,
    }
    for state, count in states.items():
        page.add("ray_tasks", "gauge", "unanswered tasks and calls, by state", {"State": state}, count)
    page.add(
        "ray_tasks_finished", "gauge", "tasks and calls that the live workers have run", {},
        sum(one["finished"] for one in facts),
    )  # fmt: skip
    actors: dict[str, int] = {}
    for actor in here.ask(HEAD, "actors"):
        actors[actor["state"].upper()] = actors.get(actor["state"].upper(), 0) + 1
    for state, count in actors.items():
        page.add("ray_actors", "gauge", "actors, by state", {"State": state}, count)
    memory: dict[tuple[str, str], int] = {}
    for process, one in answers.items():
        key = node_of(process).hex(), one["role"]
        memory[key] = memory.get(key, 0) + one["rss"]
    for (node, role), size in memory.items():
        page.add(
            "ray_component_rss_bytes", "gauge", "resident memory, shared pages included",
            {"NodeId": node, "Component": role}, size,
        )  # fmt: skip
    for raylet, status in ask_nodes(here, "status").answers.items():
        _node(page, node_of(raylet).hex(), status)


def _node(page: _Page, node: str, status: Mapping[str, Any]) -> None:
    labels = {"NodeId": node}
    for name, total in status["resources"].items():
        free = status["available"].get(name, 0)
        for state, amount in (("AVAILABLE", free), ("USED", total - free)):
            page.add("ray_resources", "gauge", "of each node", {**labels, "Name": name, "State": state}, amount / 1000)
    for state, count in status["workers"].items():
        page.add("ray_workers", "gauge", "worker processes", {**labels, "State": state.upper()}, count)
    for key, name, description in (
        ("queued", "ray_leases_queued", "requests for workers that wait on the node"),
        ("leases", "ray_leases", "workers on lease"),
        ("objects", "ray_object_store_num_local_objects", "objects in the store"),
        ("store_used", "ray_object_store_used_memory", "bytes"),
        ("store_bytes", "ray_object_store_memory_bytes", "size of the store"),
        ("pins", "ray_object_store_pins", "views of objects that are being read"),
    ):
        page.add(name, "gauge", description, labels, status[key])
    for key, amount in status["spilled"].items():
        page.add(f"ray_object_store_spill_{key}", "gauge", "objects written to disk", labels, amount)


class _Page:
    """Samples by metric, in the order in which they came."""

    def __init__(self) -> None:
        self._metrics: dict[str, tuple[str, str, list[str]]] = {}

    def add(self, name: str, kind: str, description: str, labels: Labels, value: float, suffix: str = "") -> None:
        known = self._metrics.setdefault(name, (kind, description, []))
        known[2].append(f"{name}{suffix}{_labelled(labels)} {_number(value)}")

    def histogram(
        self, name: str, description: str, labels: Labels, boundaries: Iterable[float], counts: list[float]
    ) -> None:
        total = 0.0
        for boundary, count in zip([*boundaries, float("inf")], counts[:-1], strict=True):
            total += count
            self.add(name, "histogram", description, {**labels, "le": _number(boundary)}, total, "_bucket")
        self.add(name, "histogram", description, labels, total, "_count")
        self.add(name, "histogram", description, labels, counts[-1], "_sum")

    def text(self) -> str:
        lines: list[str] = []
        for name, (kind, description, samples) in self._metrics.items():
            escaped = description.replace("\\", "\\\\").replace("\n", "\\n")
            lines += [f"# HELP {name} {escaped}", f"# TYPE {name} {kind}", *samples]
        return "\n".join(lines) + "\n"


def _labelled(labels: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


class Endpoint:
    """Answers GET / and /metrics over HTTP, one client at a time, in a thread of its own."""

    def __init__(self, here: Core, host: str, port: int) -> None:
        self._exporter = Exporter(here)
        self._listener = socket.create_server((host, port))
        self.host, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._serve, name="sparkray-metrics", daemon=True).start()

    def close(self) -> None:
        """Listen no more. A client that is being served gets its answer, or nothing."""
        with contextlib.suppress(OSError):  # not everywhere may a listener be shut down; then closing it does
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except ConnectionAbortedError:
                continue  # it was gone before we came
            except OSError as error:
                if self._listener.fileno() < 0 or error.errno not in (errno.EMFILE, errno.ENFILE):
                    return  # closed
                time.sleep(_PAUSE_S)
                continue
            with client:
                try:
                    request = _request(client, time.monotonic() + _REQUEST_LIMIT_S)
                    client.settimeout(_REQUEST_LIMIT_S)
                    client.sendall(self._answer(request))
                except OSError as error:
                    log.debug("a client of the metrics endpoint: %s", error)

    def _answer(self, request: bytes) -> bytes:
        words = request.split(b"\r\n", 1)[0].split()
        if len(words) != 3 or words[0] not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"only GET\n", head=False)
        if words[1].split(b"?")[0] not in (b"/", b"/metrics"):
            return _response("404 Not Found", b"try /metrics\n", head=False)
        try:
            body = self._exporter.text().encode()
        except Exception as error:  # noqa: BLE001 - the session may be ending: the client is told, the thread stays
            return _response("503 Service Unavailable", f"{error}\n".encode(), head=False)
        return _response("200 OK", body, head=words[0] == b"HEAD")


def _request(client: socket.socket, until: float) -> bytes:
    """
    Raises:
        TimeoutError: it was not all there in time, however it trickled in.
    """
    request = b""
    while b"\r\n\r\n" not in request and len(request) < _MOST_REQUEST:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long to send its request")
        client.settimeout(left)
        some = client.recv(4096)
        if not some:
            break
        request += some
    return request


def _response(status: str, body: bytes, head: bool) -> bytes:
    lines = f"HTTP/1.0 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    return lines.encode() + (b"" if head else body)


def serve(port: int = 0, host: str = "127.0.0.1") -> Endpoint:
    """Open an endpoint for this session, until its `close` or the session's end.

    Args:
        port: 0 takes a free one; see `Endpoint.port`.
        host: where to listen. Whoever can connect can read the metrics; that is why it is not opened unasked.

    Raises:
        OSError: the port is taken.
    """
    return Endpoint(core(), host, port)


def metrics_text() -> str:
    """The metrics as a scrape would give them now."""
    return Exporter(core()).text()
