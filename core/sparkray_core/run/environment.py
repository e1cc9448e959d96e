"""A worker takes on an environment: variables, current folder, modules, and the user's own hook.

Done once, before the worker runs anything, and for good: workers are never turned back. A package is unpacked once per
node, into `packages/<hash>` in the node's folder, by whichever worker needs it first.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import re
import shutil
import sys
import time
import traceback
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cloudpickle

from sparkray_core.ids import NodeId, ObjectId, ProcessId
from sparkray_core.run import gpus, modules, threads

if TYPE_CHECKING:
    from sparkray_core.run.core import Core

SETUP_TIMEOUT_S = 600.0  # Ray's default
_REFERENCE = re.compile(r"\$\{(\w+)\}")


class SetUpFailed(Exception):
    """The environment cannot be had here; the sentence says why."""


def time_limit(env: str) -> float | None:
    """Seconds that setting it up may take."""
    seconds = float(json.loads(env).get("setup_s", SETUP_TIMEOUT_S))
    return None if seconds < 0 else seconds


def take_on(core: Core, env: str) -> None:
    """
    Raises:
        SetUpFailed: in part done; this process is of no use any more.
    """
    spec = json.loads(env)
    core.env = env
    if "job" in spec:
        _join_job(core, spec["job"])
    packages: Mapping[str, list[Any]] = spec.get("packages", {})
    folders = [_unpack(core, digest, packages) for digest in spec.get("py_modules", ())]
    if "working_dir" in spec:
        folders.insert(0, _unpack(core, spec["working_dir"], packages))
    _set_variables(spec.get("env_vars", {}))
    if folders:
        sys.path[:0] = folders
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([*folders, *([inherited] if inherited else [])])
    if "working_dir" in spec:
        os.chdir(folders[0])
    importlib.invalidate_caches()
    core.known_folders = modules.search_path()  # whom it hands work to inherits the environment
    if "hook" in spec:
        _run_hook(core, spec["hook"], packages)


def _join_job(core: Core, job: Mapping[str, Any]) -> None:
    """Work for that driver from now on, which may be on another host: what it names may not be there."""
    core.job, core.namespace, core.driver = job["id"], job["namespace"], ProcessId(bytes.fromhex(job["driver"]))
    if core.owner.sharing is not None:
        core.owner.sharing.driver = core.driver
    own = [path for path in sys.path if path not in job["sys_path"]]
    sys.path[:] = [*(path for path in job["sys_path"] if os.path.exists(path)), *own]
    with contextlib.suppress(OSError):
        os.chdir(job["cwd"])
    core.actor_lifetime = job["facts"].get("actor_lifetime")
    if "logging" in job["facts"]:
        from sparkray_core.run import logs

        logs.configure(job["facts"]["logging"])


def _set_variables(variables: Mapping[str, str | None]) -> None:
    before = dict(os.environ)
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = _REFERENCE.sub(lambda match: before.get(match[1], ""), value)
    if "TZ" in variables:
        time.tzset()
    added = variables.get("PYTHONPATH")
    if added:  # this interpreter read the variable long ago
        paths = os.environ["PYTHONPATH"].split(os.pathsep)
        sys.path[:0] = [path for path in paths if path and path not in sys.path]
    threads.follow_variables(variables)
    gpus.follow_variables(variables)


def _unpack(core: Core, digest: str, packages: Mapping[str, list[Any]]) -> str:
    """The folder of a package on this node; made, if this worker is the first that needs it."""
    base = os.path.join(core.folder, "packages")
    folder = os.path.join(base, digest)
    if os.path.isdir(folder):
        return folder
    os.makedirs(base, mode=0o700, exist_ok=True)
    try:
        with open(f"{folder}.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.isdir(folder):
                _unpack_to(core, folder, digest, packages)
    except OSError as error:
        raise SetUpFailed(f"a package cannot be unpacked into {base}: {error}") from error
    return folder


def _unpack_to(core: Core, folder: str, digest: str, packages: Mapping[str, list[Any]]) -> None:
    made, archive = f"{folder}.new", f"{folder}.zip"
    shutil.rmtree(made, ignore_errors=True)  # of a worker that died on the way
    os.mkdir(made)  # an empty folder's .zip would not
    try:
        with open(archive, "wb") as file:
            file.write(_fetch(core, digest, packages))
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(made)
                for info in opened.infolist():
                    mode = info.external_attr >> 16 & 0o777
                    if mode & 0o100:
                        os.chmod(os.path.join(made, info.filename), mode)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # foreign methods; encrypted ones
            raise SetUpFailed(f"a package is no .zip that can be unpacked: {error}") from error
        os.rename(made, folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(archive)
        shutil.rmtree(made, ignore_errors=True)


def _fetch(core: Core, digest: str, packages: Mapping[str, list[Any]]) -> memoryview:
    some_object, nodes, _ = packages[digest]
    try:
        return core.pin(ObjectId(bytes.fromhex(some_object)), [NodeId(bytes.fromhex(node)) for node in nodes])
    except Exception as error:  # whatever the store says
        raise SetUpFailed(f"a package cannot be fetched: {error}") from error


def _run_hook(core: Core, hook: str, packages: Mapping[str, list[Any]]) -> None:
    try:
        if hook in packages:
            function = cloudpickle.loads(_fetch(core, hook, packages))
        else:
            module, _, name = hook.rpartition(".")
            function = getattr(importlib.import_module(module), name)
        function()
    except Exception as error:
        text = "".join(traceback.format_exception(error)).rstrip()
        raise SetUpFailed(f"worker_process_setup_hook raised:\n{text}") from error
