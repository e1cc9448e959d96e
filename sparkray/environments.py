"""The environment that a task, actor or job asks for, made from its `runtime_env` and its parent's.

What travels is one JSON text, the environment's name to all models. Files are in objects of the store, by hash:

    {"env_vars": {name: value or null}, "working_dir": hash, "py_modules": [hash, ...],
     "job": {"id", "namespace", "driver", "sys_path", "cwd", "facts"} of a driver that joined,
     "hook": hash or "module.function", "setup_s": seconds, "packages": {hash: [object id, [node, ...], bytes]}}
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkray.runtime_env import PACKAGE_SCHEME, SETUP_TIMEOUT_S, RuntimeEnv
from sparkray_core.run.core import Core

if TYPE_CHECKING:
    from sparkray.packages import Packages

_REFERENCE = re.compile(r"\$\{(\w+)\}")


def environment(core: Core, given: RuntimeEnv | None) -> str:
    """The text of an environment: this process's own, with what is given laid over it.

    Variables are merged; of all else what is given counts. `${NAME}` in a value is the variable that is inherited.

    Raises:
        PackageTooLarge: a folder is.
        ValueError: a folder is not there any more.
        ObjectStoreFullError: there is no room for a package.
    """
    if not given:
        return core.env
    spec: dict[str, Any] = json.loads(core.env) if core.env else {}
    known: dict[str, Any] = spec.pop("packages", {})
    if "env_vars" in given:
        spec["env_vars"] = _merged(spec.get("env_vars", {}), given["env_vars"])
    if not given.keys().isdisjoint(("working_dir", "py_modules", "worker_process_setup_hook")):
        known = _add_packages(core, given, spec, known)
    if "config" in given:
        spec["setup_s"] = given["config"]["setup_timeout_seconds"]
    used = [spec.get("working_dir"), *spec.get("py_modules", ()), spec.get("hook")]
    places = {digest: known[digest] for digest in used if digest in known}
    if places:
        spec["packages"] = places
    return json.dumps(spec, sort_keys=True, separators=(",", ":")) if spec else ""


def job_environment(core: Core, sys_path: Sequence[str], cwd: str, facts: Mapping[str, Any]) -> str:
    """The environment of all that a driver starts that joined a session: its workers are nobody else's."""
    job = {
        "id": core.job,
        "namespace": core.namespace,
        "driver": core.me.hex(),
        "sys_path": list(sys_path),
        "cwd": cwd,
        "facts": dict(facts),
    }
    return json.dumps({"job": job}, sort_keys=True, separators=(",", ":"))


def _add_packages(core: Core, given: RuntimeEnv, spec: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Pack what is given, and name it in the spec. Returns where all packages are that this process knows of."""
    excludes = given.get("excludes", ())
    packages = _packages(core)
    packages.places = {**known, **packages.places}
    if "working_dir" in given:
        spec["working_dir"] = _package(packages, "working_dir", given["working_dir"], excludes)
    if "py_modules" in given:
        spec["py_modules"] = [_package(packages, "py_modules", path, excludes) for path in given["py_modules"]]
    hook = given.get("worker_process_setup_hook")
    if hook is not None:
        spec["hook"] = hook if isinstance(hook, str) else packages.hook(hook)
    return packages.places


def _merged(inherited: Mapping[str, str | None], given: Mapping[str, str | None]) -> dict[str, str | None]:
    def inherit(match: re.Match[str]) -> str:
        return inherited.get(match[1]) or match[0]  # else the worker looks, in what it inherits itself

    laid_over = {name: value if value is None else _REFERENCE.sub(inherit, value) for name, value in given.items()}
    return {**inherited, **laid_over}


def _package(packages: Packages, field: str, path: str, excludes: Sequence[str]) -> str:
    if path.startswith(PACKAGE_SCHEME):
        digest = path[len(PACKAGE_SCHEME) :].removesuffix(".zip")
        if digest not in packages.places:
            raise ValueError(f"runtime_env[{field!r}]: the package {path!r} is not one of this session")
        return digest
    what = f"runtime_env[{field!r}]: {path!r}"
    try:
        if os.path.isdir(path):
            name = os.path.basename(os.path.realpath(path)) + "/" if field == "py_modules" else ""
            return packages.folder(what, path, excludes, name)
        return packages.file(what, path) if path.endswith(".py") else packages.archive(path)
    except FileNotFoundError as error:
        raise ValueError(f"{what} is not there: {error.strerror}: {error.filename}") from None


def _packages(core: Core) -> Packages:
    from sparkray.packages import Packages  # imports zipfile and more: only for those who need it

    if core.packages is None:
        core.packages = Packages(core)
    found = core.packages
    assert isinstance(found, Packages)
    return found


def as_runtime_env(text: str) -> RuntimeEnv:
    """What an environment's text says, in the user's words. Packages have addresses that are valid in the session."""
    made = RuntimeEnv()
    if not text:
        return made
    spec = json.loads(text)
    fields: dict[str, Any] = {}
    if "env_vars" in spec:
        fields["env_vars"] = spec["env_vars"]
    if "working_dir" in spec:
        fields["working_dir"] = f"{PACKAGE_SCHEME}{spec['working_dir']}.zip"
    if "py_modules" in spec:
        fields["py_modules"] = [f"{PACKAGE_SCHEME}{digest}.zip" for digest in spec["py_modules"]]
    if "hook" in spec:
        fields["worker_process_setup_hook"] = spec["hook"]
    if spec.get("setup_s", SETUP_TIMEOUT_S) != SETUP_TIMEOUT_S:
        fields["config"] = {"setup_timeout_seconds": spec["setup_s"]}
    dict.update(made, fields)
    return made
