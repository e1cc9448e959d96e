"""`RuntimeEnv`: what the workers of a task, actor or job shall have around them. Checked here, made in the worker.

env_vars                    variables of the process; a value of None takes one away that is inherited
working_dir                 a folder or .zip, copied once to a node; the worker's current folder, first on sys.path
py_modules                  folders, .py, .whl or .zip files, or imported modules, to be importable there
excludes                    of working_dir and py_modules: patterns as in .gitignore
worker_process_setup_hook   a function, or its name as "module.function", called once in each such worker
config                      {"setup_timeout_seconds": 600}; -1: without limit
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

SETUP_TIMEOUT_S = 600  # Ray's default
PACKAGE_SCHEME = "pkg://"  # in what a worker is told of its own environment: a folder that was packed already
_SCHEMES = ("s3://", "gs://", "gcs://", "http://", "https://", "hdfs://", "file://", "azure://", "abfss://")

_NOT_HERE: Mapping[str, str] = {
    "pip": "install what the workers need where they run (on Spark: archives or a conda environment of the executors)",
    "uv": "install what the workers need where they run (on Spark: archives or a conda environment of the executors)",
    "conda": "start the driver in that environment (on Spark: give it to init_spark_on_yarn, or in spark.archives)",
    "image_uri": "containers are the business of Spark or of whoever starts the nodes",
    "container": "containers are the business of Spark or of whoever starts the nodes",
    "py_executable": "workers are forked from one interpreter, the driver's (on Spark: PYSPARK_PYTHON)",
    "java_jars": "there are no Java workers",
    "nsight": "profile a worker from outside, by its pid",
    "rocprof_sys": "profile a worker from outside, by its pid",
    "mpi": "start the processes from an actor",
}


class RuntimeEnvConfig(dict[str, Any]):
    """`config` of a `RuntimeEnv`: setup_timeout_seconds, eager_install (accepted: they are made when needed)."""

    def __init__(self, setup_timeout_seconds: float = SETUP_TIMEOUT_S, eager_install: bool = True) -> None:
        if not isinstance(setup_timeout_seconds, int | float) or isinstance(setup_timeout_seconds, bool):
            raise TypeError(f"setup_timeout_seconds must be a number of seconds, not {setup_timeout_seconds!r}")
        if setup_timeout_seconds <= 0 and setup_timeout_seconds != -1:
            raise ValueError(f"setup_timeout_seconds must be above 0, or -1 for no limit; not {setup_timeout_seconds}")
        if not isinstance(eager_install, bool):
            raise TypeError(f"eager_install must be True or False, not {eager_install!r}")
        super().__init__(setup_timeout_seconds=setup_timeout_seconds, eager_install=eager_install)


class RuntimeEnv(dict[str, Any]):
    """A dict of the fields that were given. See the module for what they mean.

    Raises:
        ValueError: a field that there is not, or a folder that does not exist.
        TypeError: a value of the wrong type.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        for field, value in fields.items():
            self[field] = value

    def __setitem__(self, field: str, value: Any) -> None:
        check = _CHECKS.get(field)
        if check is None:
            if field in _NOT_HERE:
                raise ValueError(f"runtime_env: sparkray has no {field!r} yet: {_NOT_HERE[field]}")
            raise ValueError(f"runtime_env: there is no field {field!r}. Known are: {', '.join(_CHECKS)}")
        if value is not None:
            super().__setitem__(field, check(value))

    def set(self, name: str, value: Any) -> None:
        self[name] = value

    def get(self, name: str, default: Any = None, data_class: type | None = None) -> Any:
        """As of a dict.

        Args:
            data_class: what a value that is there is made an instance of, from its own fields if it is a dict.
        """
        value = super().get(name, default)
        if name not in self or data_class is None or isinstance(value, data_class):
            return value
        return data_class(**value) if isinstance(value, Mapping) else data_class(value)

    def serialize(self) -> str:
        """As JSON.

        Raises:
            TypeError: a worker_process_setup_hook that is a function has no name that JSON could keep.
        """
        import json

        return json.dumps(self, sort_keys=True)

    @classmethod
    def deserialize(cls, serialized_runtime_env: str) -> RuntimeEnv:
        import json

        return cls(**json.loads(serialized_runtime_env))

    def has_working_dir(self) -> bool:
        return bool(self.get("working_dir"))

    def env_vars(self) -> dict[str, str | None]:
        return dict(self.get("env_vars") or {})

    def working_dir(self) -> str | None:
        found: str | None = self.get("working_dir")
        return found

    def py_modules(self) -> list[Any]:
        return list(self.get("py_modules") or [])

    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> Any:
        return _rebuild, (dict(self),)


def _rebuild(fields: dict[str, Any]) -> RuntimeEnv:
    """On another machine, where the folders of the first need not exist: not checked again."""
    made = RuntimeEnv()
    dict.update(made, fields)
    return made


def checked(given: Any) -> RuntimeEnv | None:
    """What the user passed as `runtime_env`.

    Raises:
        TypeError: neither a dict nor a RuntimeEnv, or a value in it of the wrong type.
        ValueError: as `RuntimeEnv`.
    """
    if given is None or isinstance(given, RuntimeEnv):
        return given
    if not isinstance(given, Mapping) or not all(isinstance(field, str) for field in given):
        raise TypeError(f"runtime_env must be a dict or a RuntimeEnv, not {given!r}")
    return RuntimeEnv(**given)


def _env_vars(value: Any) -> dict[str, str | None]:
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['env_vars'] must be a dict of names and values, not {value!r}")
    for name, one in value.items():
        if not isinstance(name, str):
            raise TypeError(f"runtime_env['env_vars'] must have names that are str, not {name!r}")
        if one is not None and not isinstance(one, str):
            raise TypeError(
                f"runtime_env['env_vars'][{name!r}] must be a str (or None, to take it away), not {one!r}, "
                f"which is a {type(one).__name__}"
            )
        if not name or "=" in name or "\0" in name or "\0" in (one or ""):
            raise ValueError(f"runtime_env['env_vars']: {name!r} and its value cannot be in an environment")
    return dict(value)


def _working_dir(value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"runtime_env['working_dir'] must be a path, not {value!r}")
    path = os.fspath(value)
    if path.startswith(PACKAGE_SCHEME):
        return path
    _refuse_remote("working_dir", path)
    if not (os.path.isdir(path) or (os.path.isfile(path) and path.endswith(".zip"))):
        raise ValueError(f"runtime_env['working_dir']: {path!r} is neither a folder nor a .zip file on this machine")
    return path


def _py_modules(value: Any) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"runtime_env['py_modules'] must be a list of paths and modules, not {value!r}")
    return [_py_module(one) for one in value]


def _py_module(one: Any) -> str:
    if isinstance(one, ModuleType):
        return _path_of(one)
    if not isinstance(one, str | os.PathLike):
        raise TypeError(f"runtime_env['py_modules'] takes paths and imported modules, not {one!r}")
    path = os.fspath(one)
    if path.startswith(PACKAGE_SCHEME):
        return path
    _refuse_remote("py_modules", path)
    if not (os.path.isdir(path) or (os.path.isfile(path) and path.endswith((".py", ".zip", ".whl")))):
        raise ValueError(
            f"runtime_env['py_modules']: {path!r} is neither a folder nor a .py, .whl or .zip file on this machine"
        )
    return path


def _path_of(module: ModuleType) -> str:
    folders = list(getattr(module, "__path__", ()))
    if len(folders) == 1:
        return str(folders[0])
    file = getattr(module, "__file__", None)
    if folders or not file or not file.endswith(".py"):
        raise ValueError(
            f"runtime_env['py_modules']: the module {module.__name__} is not one folder or .py file: name its path"
        )
    return str(file)


def _refuse_remote(field: str, path: str) -> None:
    if path.startswith(_SCHEMES):
        raise ValueError(
            f"runtime_env[{field!r}]: {path!r} is a remote address. sparkray takes folders and files of this machine; "
            f"download it first"
        )


def _excludes(value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"runtime_env['excludes'] must be a list of patterns, not {value!r}")
    return list(value)


def _hook(value: Any) -> str | Callable[[], object]:
    if not isinstance(value, str) and not callable(value):
        raise TypeError(
            f"runtime_env['worker_process_setup_hook'] must be a function or 'module.function', not {value!r}"
        )
    if isinstance(value, str) and "." not in value:
        raise ValueError(f"runtime_env['worker_process_setup_hook'] is 'module.function', not {value!r}")
    return value  # type: ignore[no-any-return]


def _config(value: Any) -> RuntimeEnvConfig:
    if isinstance(value, RuntimeEnvConfig):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['config'] must be a dict or a RuntimeEnvConfig, not {value!r}")
    unknown = set(value) - {"setup_timeout_seconds", "eager_install"}
    if unknown:
        raise ValueError(
            f"runtime_env['config']: there is no {sorted(map(str, unknown))[0]!r}. Known are: setup_timeout_seconds, "
            f"eager_install"
        )
    return RuntimeEnvConfig(**value)


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "env_vars": _env_vars,
    "working_dir": _working_dir,
    "py_modules": _py_modules,
    "excludes": _excludes,
    "worker_process_setup_hook": _hook,
    "config": _config,
}
