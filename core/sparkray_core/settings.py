"""What a user may have reason to change: every setting with its default, its unit and why the default is what it is.

This is the one place that knows them. A number that nobody has reason to change is a named constant where it is used.
Where values come from (keywords, environment, a file) is `run/settings_sources.py`. To add one, add a field; then write
the example file and the documents anew (`python -m sparkray.settings --example`, `--markdown`), or a test says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any


class BadSetting(ValueError):
    """A setting that does not exist, or a value that it cannot have. The sentence names it, and where it came from."""


# Variables of the environment that begin as settings do and are none.
OTHER_VARIABLES: Mapping[str, str] = {
    "SPARKRAY_CONFIG": "the file that settings are read from",
    "SPARKRAY_ADDRESS": "the session that init() joins, unless its address= says another",
    "SPARKRAY_KEY": "the key of the session that is joined",
    "SPARKRAY_KEY_FILE": "the file with the key of the session that is joined",
    "SPARKRAY_PORTABLE": "for tests: do without what only Linux has",
    "SPARKRAY_TEST_RUN": "for tests: marks the processes of one run",
    "SPARKRAY_HADOOP_JARS": "for tests: the folder with Hadoop's jars, where they cannot be fetched",
    "SPARKRAY_SEEDS": "for tests: how many seeds the simulation tries",
}


def _setting(
    default: Any,
    unit: str,
    reason: str,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    schemes: tuple[str, ...] = (),
    ray: tuple[str, ...] = (),
) -> Any:
    """
    Args:
        unit: what the number counts; "" for none.
        reason: what it is, and why the default is what it is.
        least, most: the bounds, which are allowed themselves.
        choices: all that a string may be.
        schemes: what it may begin with, as a URL; it may have a password in it, and is never shown.
        ray: names under which Ray knows it: a variable of the environment, or a key of `_system_config`.
    """
    facts = {
        "unit": unit,
        "reason": reason,
        "least": least,
        "most": most,
        "choices": choices,
        "schemes": schemes,
        "ray": ray,
    }
    return field(default=default, metadata=facts, repr=not schemes)


@dataclass(frozen=True)  # no slots: a default is read off the class, as Settings.node_timeout_s
class Settings:
    """One session's settings. All its processes have the same ones, as the driver that started it found them."""

    # ---- objects
    inline_bytes: int = _setting(
        100 << 10,
        "bytes",
        "values up to here travel in messages, larger ones lie in shared memory; Ray's limit too, and a copy costs "
        "20 us at most",
        least=0,
        most=16 << 20,
        ray=("max_direct_call_object_size",),
    )
    object_store_share: float = _setting(
        0.3,
        "share of the memory",
        "size of the stores of one machine or container, where object_store_memory is not given; Ray's default, and "
        "only what is written is taken from the system",
        least=0.001,
        most=0.95,
    )
    store_wait_s: float = _setting(
        3.0,
        "seconds",
        "how long a value that finds the store full waits for others to be let go, before ObjectStoreFullError",
        least=0,
    )
    object_store_warm_bytes: int = _setting(
        320 << 20,
        "bytes",
        "so much of each store's memory (a sixteenth of the store at most) is taken from the system at its start, in "
        "the background: the first large value is stored at twice the speed. It is given back after a minute without "
        "any; 0: none",
        least=0,
    )
    object_spilling_directory: str | None = _setting(
        None,
        "path",
        "where objects go that memory has no room for; none: the session's own folder, which lies below /tmp; in "
        "Spark's executors Spark's own local folder",
    )
    object_spilling_threshold: float = _setting(
        0.8,
        "share of the store",
        "above it objects that nobody reads are written to disk ahead of need, so that room can be made at once; "
        "Ray's default",
        least=0.05,
        most=1,
        ray=("object_spilling_threshold",),
    )
    function_limit_bytes: int = _setting(
        95 << 20,
        "bytes",
        "a remote function or class that is larger when pickled is refused: it has captured data that should be a "
        "reference; Ray's limit",
        least=1 << 10,
        most=256 << 20,
    )

    # ---- actors
    checkpoint_interval_s: float = _setting(
        0.0,
        "seconds",
        "at most so many seconds of answered calls are lost when an actor with __ray_save__ restarts: its state is "
        "saved that often at most; 0: it is saved before each answer leaves, and nothing is lost. An actor may say "
        "otherwise",
        least=0,
    )
    checkpoint_head_bytes: int = _setting(
        1 << 20,
        "bytes",
        "a saved state of an actor up to here is kept by the head, and survives the node; a larger one lies in the "
        "store of the actor's node. The head keeps one for each actor that saves",
        least=0,
        most=64 << 20,
    )

    # ---- tasks and workers
    task_max_retries: int = _setting(
        3,
        "times",
        "how often a task runs again after its worker or node died, if it has no max_retries; -1: for ever; Ray's "
        "default",
        least=-1,
        ray=("RAY_TASK_MAX_RETRIES",),
    )
    task_oom_retries: int = _setting(
        3,
        "times",
        "how often a task (with max_retries other than 0) runs again after its worker was ended to save memory, apart "
        "from max_retries; Ray does it without end, and a task that can never fit then runs for ever; -1: as Ray does",
        least=-1,
        ray=("task_oom_retries", "RAY_task_oom_retries"),
    )
    memory_threshold: float = _setting(
        0.95,
        "share of the memory",
        "when more of a node's memory is used, the newest worker whose work can be repeated is ended; of the "
        "container's limit or the machine's memory, whichever is nearer; Ray's default; 0: never",
        least=0,
        most=1,
        ray=("memory_usage_threshold", "RAY_memory_usage_threshold"),
    )
    memory_limit_bytes: int = _setting(
        0,
        "bytes",
        "of a node's workers and store together, where neither a cgroup nor the machine sets the limit that counts (a "
        "YARN container that is watched from outside); 0: no such limit",
        least=0,
    )
    memory_check_s: float = _setting(
        0.25,
        "seconds",
        "between two looks at the memory while much of it is used; four times as long otherwise; Ray's default",
        least=0.01,
        most=60,
    )
    lineage_bytes: int = _setting(
        256 << 20,
        "bytes",
        "of what each driver and worker keeps so that it can make results that lie in a store again when their node "
        "dies: the calls, and those of their arguments that cannot be made again; beyond it the oldest is forgotten. "
        "Some 250,000 calls, or some large arguments, which can go to disk; 0: nothing is made again",
        least=0,
        ray=("max_lineage_bytes", "RAY_max_lineage_bytes"),
    )
    lost_block_wait_s: float = _setting(
        30.0,
        "seconds",
        "how long a Spark task that reads a DataFrame of to_spark() waits for a lost block to be made again before it "
        "fails, four times as a rule; it keeps its slot meanwhile, and while all slots wait, none is left to make the "
        "block. Where partitions take minutes to compute it should be longer",
        least=0,
    )
    infeasible_grace_s: float = _setting(
        30.0,
        "seconds",
        "how long work that no node could ever hold waits for one that could, before TaskUnschedulableError; a node "
        "that is being started should make it; inf: for ever, as Ray does",
        least=0,
    )
    prestart_workers: int | None = _setting(
        None,
        "processes",
        "workers that each node forks at its start, before anyone asks; none: one to a CPU",
        least=0,
        most=10_000,
    )
    idle_workers: int | None = _setting(
        None,
        "processes",
        "idle workers that each node keeps: a fork costs milliseconds, an idle worker tens of megabytes; none: one to "
        "a CPU",
        least=0,
        most=10_000,
    )
    waiting_workers: int | None = _setting(
        None,
        "processes",
        "tasks of a node that may wait for others, each in a process of its own; when there are so many, and one more "
        "process to a CPU, workers run what they wait for themselves, where that is safe: else recursion would take a "
        "process to a level; none: one to a CPU, and at least 8",
        least=0,
        most=100_000,
    )
    worker_start_limit_s: float = _setting(
        60.0,
        "seconds",
        "a worker that is not ready by then is killed: it may hang in a lock that was held when it was forked",
        least=1,
        ray=("worker_register_timeout_seconds",),
    )

    # ---- what is told of them
    task_records: int = _setting(
        10_000,
        "tasks",
        "that ended, remembered by each worker for the state API and the timeline; some 200 bytes each",
        least=0,
        most=10_000_000,
    )
    metrics_port: int | None = _setting(
        None,
        "port",
        "where the driver gives the session's metrics to Prometheus; 0 takes a free one; none: nowhere, as whoever can "
        "connect can read them. init(_metrics_export_port=...) sets it, too",
        least=0,
        most=65_535,
    )
    metrics_host: str = _setting(
        "127.0.0.1",
        "address",
        "of this machine, where the driver listens for who reads the metrics, if metrics_port is set",
    )

    # ---- the session and its nodes
    start_limit_s: float = _setting(
        60.0,
        "seconds",
        "for the start of the engine; 0.3 is usual, but from a cold disk on a busy machine it may take many times that",
        least=1,
    )
    reply_limit_s: float = _setting(
        60.0,
        "seconds",
        "a raylet or head that leaves a question unanswered for so long is taken for dead",
        least=1,
    )
    node_timeout_s: float = _setting(
        2.5,
        "seconds",
        "silence after which a node is given up, and what ran on it runs elsewhere; five beats: a busy machine may "
        "miss some. Of more than 1,000 nodes each beats less often, and may be silent for longer: 7 s at 10,000. One "
        "whose processes have ended is noticed at once",
        least=1,
        most=3600,
    )
    base_folder: str | None = _setting(
        None,
        "path",
        "where the sockets and logs of this machine's nodes are, in a folder of each session; short, because a "
        "socket's path may have 103 bytes; none: /tmp/sparkray-<uid>. Executors on other hosts have their own, from "
        "their environment",
    )
    keep_logs: str | None = _setting(
        None,
        "path",
        "a folder for the logs of nodes that ended; none: they go with the node",
    )
    global_schedulers: int = _setting(
        0,
        "processes",
        "beside the head that choose nodes for tasks, on its node; 0: the head does that itself, which is enough "
        "for tens of thousands of leases a second. If one dies, another takes its place",
        least=0,
        most=64,
    )
    gcs_shards: int = _setting(
        1,
        "processes",
        "that keep the GCS's records of objects which may outlive their owners, beside the head, on its node; 1: the "
        "head does that itself. Each has a journal of its own, and if one dies, another goes on from that",
        least=0,
        most=64,
    )
    gcs_storage: str | None = _setting(
        None,
        "URL",
        "where the GCS writes down what it is told, so that another process can go on with the session when it is "
        "killed: a Redis server, with its password in the URL (pip install 'sparkray[redis]'); none: a file in the "
        "session's folder",
        schemes=("redis://", "rediss://", "unix://"),
    )
    log_level: str = _setting(
        "INFO",
        "",
        "how much raylet, head and keeper write to their logs",
        choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    )

    # ---- the driver
    enable_auto_connect: bool = _setting(
        True,
        "",
        "the first use of the API without a session starts one; as Ray has it",
        ray=("RAY_ENABLE_AUTO_CONNECT",),
    )
    ignore_unhandled_errors: bool = _setting(
        False,
        "",
        "say nothing of errors of tasks that nobody ever looked at",
        ray=("RAY_IGNORE_UNHANDLED_ERRORS",),
    )

    allow_out_of_band_object_ref_serialization: bool = _setting(
        True,
        "",
        "references may be pickled by the user's own hand; their values are then kept for as long as the process lives",
        ray=("RAY_allow_out_of_band_object_ref_serialization", "allow_out_of_band_object_ref_serialization"),
    )

    def __post_init__(self) -> None:
        for name in FIELDS:
            checked(name, getattr(self, name), "Settings()")

    def prestarted(self, cpus: int) -> int:
        """Workers that a node with so many CPUs forks at its start."""
        return cpus if self.prestart_workers is None else self.prestart_workers

    def changed(self) -> dict[str, Any]:
        """Those that are not at their default: what travels to other processes. `Settings(**...)` takes it back."""
        return {name: getattr(self, name) for name, one in FIELDS.items() if getattr(self, name) != one.default}


FIELDS: dict[str, Field[Any]] = {one.name: one for one in fields(Settings)}
RAY_NAMES: dict[str, str] = {theirs: name for name, one in FIELDS.items() for theirs in one.metadata["ray"]}


def variable(name: str) -> str:
    """The variable of the environment that holds this setting."""
    return f"SPARKRAY_{name.upper()}"


def unknown(name: str, source: str, among: Iterable[str] = ()) -> BadSetting:
    """The error for a name that is no setting's, with the nearest one that is."""
    from difflib import get_close_matches  # 3 ms, for whoever erred

    near = get_close_matches(name, list(among) or list(FIELDS), 1, 0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return BadSetting(f"{source}: there is no setting {name}.{hint} `python -m sparkray.settings` lists all.")


def checked(name: str, value: Any, source: str) -> Any:
    """The value as the setting's own type: 1 becomes 1.0 where a float is meant, "4g" a number of bytes.

    Args:
        source: where it came from, for the sentence.

    Raises:
        BadSetting: no such setting, the wrong type, or out of range.
    """
    one = FIELDS.get(name)
    if one is None:
        raise unknown(name, source)
    kind, _, optional = str(one.type).partition(" | ")
    facts, given = one.metadata, value
    if value is None and optional:
        return None
    if kind == "float" and type(value) is int:
        value = float(value)
    if kind == "int" and facts["unit"] == "bytes" and isinstance(value, str):
        value = size_in_bytes(value)
    if facts["schemes"] and not (isinstance(value, str) and value.startswith(facts["schemes"])):
        raise BadSetting(f"{source}: {name} must be a URL that begins with one of {', '.join(facts['schemes'])}")
    if type(value).__name__ != kind or (isinstance(value, float) and math.isnan(value)):
        raise BadSetting(f"{source}: {name} must be {_in_words(one)}, not {given!r}")
    low, high = facts["least"], facts["most"]
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"from {low:g} to {high:g}" if high is not None else f"at least {low:g}"
        raise BadSetting(f"{source}: {name} must be {bounds}{_of(one)}, not {given!r}")
    if facts["choices"] and value not in facts["choices"]:
        raise BadSetting(f"{source}: {name} must be one of {', '.join(facts['choices'])}, not {value!r}")
    return value


def from_text(name: str, text: str, source: str) -> Any:
    """The value that a variable of the environment holds.

    Raises:
        BadSetting: it is none that this setting can have.
    """
    one = FIELDS[name]
    kind, _, optional = str(one.type).partition(" | ")
    value: Any = text
    word = text.strip().lower()
    if optional and word == "none":
        value = None
    elif kind == "bool":
        value = _FLAGS.get(word, text)
    elif kind in ("int", "float"):
        try:
            value = int(word) if kind == "int" else float(word)
        except ValueError:
            value = size_in_bytes(word) if one.metadata["unit"] == "bytes" else None
            value = text if value is None else value
    return checked(name, value, source)


_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_SIZE = re.compile(r"(\d+)\s*(?:([bkmgtp])(?:i?b)?)?")
_POWERS = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def size_in_bytes(text: str) -> int | None:
    """Bytes, from a size as Spark writes it: "512m", "4g". The units are binary: 1k is 1024. None: it is no size."""
    match = _SIZE.fullmatch(text.strip().lower())
    return None if match is None else int(match.group(1)) << 10 * _POWERS[match.group(2) or "b"]


def _in_words(one: Field[Any]) -> str:
    kind, _, optional = str(one.type).partition(" | ")
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string"}[kind]
    return words + _of(one) + (" or none" if optional else "")


def _of(one: Field[Any]) -> str:
    unit = one.metadata["unit"]
    return f" ({unit})" if unit else ""
