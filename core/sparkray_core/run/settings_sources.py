"""Where a session's settings come from: keyword, then environment, file, default. Read once, by the driver."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from sparkray_core.settings import FIELDS, OTHER_VARIABLES, RAY_NAMES, BadSetting, Settings, checked, from_text, unknown
from sparkray_core.settings import variable as variable_of

PREFIX = "SPARKRAY_"


def resolve(given: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings, each from the first source that has it. All sources are checked, also where another one wins.

    Args:
        given: by name; what the user wrote in code.
        environment: `os.environ`, if not given.

    Raises:
        BadSetting: a name that is no setting's, or a value that it cannot have, in any of the sources.
    """
    environment = os.environ if environment is None else environment
    values = from_file(environment)
    values.update(from_environment(environment))
    values.update({name: checked(name, value, "settings given in code") for name, value in (given or {}).items()})
    return Settings(**values)


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """From SPARKRAY_<NAME>; or, for some, from Ray's own variable. An empty one counts as not set.

    Raises:
        BadSetting: see `resolve`.
    """
    found = {}
    for theirs, name in RAY_NAMES.items():
        if environment.get(theirs):
            found[name] = from_text(name, environment[theirs], f"the environment's {theirs}")
    for key in environment:
        if not key.startswith(PREFIX) or key in OTHER_VARIABLES:
            continue
        name = key[len(PREFIX) :].lower()
        if name not in FIELDS or key != variable_of(name):
            among = [*map(variable_of, FIELDS), *OTHER_VARIABLES]
            raise unknown(key, "the environment", among)
        if environment[key]:
            found[name] = from_text(name, environment[key], f"the environment's {key}")
    return found


def file_path(environment: Mapping[str, str]) -> str | None:
    """The file that settings are read from: SPARKRAY_CONFIG, or the first of the two customary places that has one."""
    given = environment.get("SPARKRAY_CONFIG")
    if given:
        return given
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME", ""), ".config")
    for path in ("sparkray.toml", os.path.join(home, "sparkray.toml")):
        if os.path.isfile(path):
            return path
    return None


def from_file(environment: Mapping[str, str]) -> dict[str, Any]:
    """
    Raises:
        BadSetting: see `resolve`; or SPARKRAY_CONFIG names a file that cannot be read, or that is no TOML.
    """
    path = file_path(environment)
    if path is None:
        return {}
    return {name: checked(name, value, path) for name, value in _parsed(path).items()}


def _parsed(path: str) -> dict[str, Any]:
    try:  # here, because most have no such file
        toml = importlib.import_module("tomllib")
    except ImportError:  # before Python 3.11
        toml = importlib.import_module("tomli")
    try:
        with open(path, "rb") as file:
            return dict(toml.load(file))
    except OSError as error:
        raise BadSetting(f"{path}: the settings cannot be read: {error.strerror}") from error
    except toml.TOMLDecodeError as error:
        raise BadSetting(f"{path}: this is no TOML: {error}") from error
