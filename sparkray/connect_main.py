"""What a Spark task tells of the executor in which it runs, where the driver has no SparkContext to ask."""

from __future__ import annotations

import contextlib
import os
import socket
from itertools import pairwise
from typing import Any

from sparkray.executor_main import executor_jvm


def machine() -> str:
    """The same of two processes that reach each other on loopback, see the same files, and are of one user."""
    facts = [socket.gethostname(), str(os.getuid())]
    # Where there are no namespaces (macOS), or they are hidden (some sandboxes), the name has to do.
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as boot:
        facts += [boot.read().strip(), *(os.readlink(f"/proc/self/ns/{name}") for name in ("net", "mnt", "pid"))]
    return " ".join(facts)


def look_around() -> dict[str, Any]:
    """The executor: its machine, its JVM, and the cores that it was given; None where its command line has none."""
    import psutil

    jvm = executor_jvm()
    words = psutil.Process(jvm.pid).cmdline()
    cores = next((after for word, after in pairwise(words) if word == "--cores"), None)
    return {"machine": machine(), "pid": jvm.pid, "start": jvm.start, "cores": int(cores) if cores else None}
