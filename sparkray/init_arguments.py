"""The arguments of `init`: each is checked before anything starts, and what can have no effect is said so, once."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparkray.job_config import JobConfig, LoggingConfig
from sparkray.options import check_amount, check_resources
from sparkray_core.run.config import NODE_ID_LABEL
from sparkray_core.settings import FIELDS, RAY_NAMES, BadSetting, size_in_bytes

log = logging.getLogger(__name__)

LEAST_STORE_BYTES = 1 << 20  # below that there is no room for what is too large for a message

# Ray's keywords that `init` takes, and why they change nothing. What is None or False there is not worth a word.
_NO_EFFECT: Mapping[str, str] = {
    "include_dashboard": "there is no dashboard yet",
    "dashboard_host": "there is no dashboard yet",
    "dashboard_port": "there is no dashboard yet",
    "enable_resource_isolation": "the engine puts no process into a cgroup",
    "cgroup_path": "the engine puts no process into a cgroup",
    "system_reserved_cpu": "the engine puts no process into a cgroup",
    "system_reserved_memory": "the engine puts no process into a cgroup",
    "proxy_server_url": "there is no dashboard yet",
    "_enable_object_reconstruction": "there is no such choice",
    "_plasma_directory": "the store is memory without a name",
    "_driver_object_store_memory": "a driver has no store of its own",
    "_object_spilling_directory": "see the settings for where objects are spilled to",
    "_redis_username": "there is no Redis",
    "_redis_password": "there is no Redis",
    "_tracing_startup_hook": "there is no tracing",
    "_node_name": "nodes are known by their ids and addresses",
    "_skip_env_hook": "there is no such hook",
}
_HIDDEN = {
    "_temp_dir": str,
    "_node_ip_address": str,
    "_memory": int,
    "_metrics_export_port": int,
}  # Ray's, and with an effect


def check(
    *,
    address: Any,
    num_cpus: Any,
    num_gpus: Any,
    resources: Any,
    labels: Any,
    object_store_memory: Any,
    namespace: Any,
    log_to_driver: Any,
    ignore_reinit_error: Any,
    job_config: Any,
    configure_logging: Any,
    logging_level: Any,
    logging_format: Any,
    logging_config: Any,
) -> int | None:
    """
    Returns:
        `object_store_memory` in bytes.

    Raises:
        TypeError, ValueError: the sentence names the argument.
    """
    check_amount("num_cpus", num_cpus)
    check_amount("num_gpus", num_gpus)
    if resources is not None:
        check_resources("resources", resources)
    _kind("address", address, str)
    _kind("namespace", namespace, str)
    if namespace == "":
        raise ValueError('namespace must not be empty: "" is not a valid namespace; leave it out for a random one')
    _kind("labels", labels, Mapping)
    for name, value in (labels or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"labels must be strings by strings, not {name!r}: {value!r}")
        if name == NODE_ID_LABEL:
            raise ValueError(f"the label {name} is sparkray's own: it is the node's id")
    _kind("log_to_driver", log_to_driver, bool)
    _kind("configure_logging", configure_logging, bool)
    if not isinstance(ignore_reinit_error, bool):
        raise TypeError(f"ignore_reinit_error must be True or False, not {ignore_reinit_error!r}")
    _kind("job_config", job_config, JobConfig)
    _kind("logging_config", logging_config, LoggingConfig)
    _kind("logging_format", logging_format, str)
    if logging_level is not None and (isinstance(logging_level, bool) or not isinstance(logging_level, int | str)):
        raise TypeError(f"logging_level must be a level of logging, not {logging_level!r}")
    if isinstance(logging_level, str) and not isinstance(logging.getLevelName(logging_level), int):
        raise ValueError(f"logging_level must be a level of logging, not {logging_level!r}")
    return _store_bytes(object_store_memory)


def _kind(name: str, value: Any, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {value!r}")


def _store_bytes(given: Any) -> int | None:
    if given is None:
        return None
    size = size_in_bytes(given) if isinstance(given, str) else given
    if not isinstance(size, numbers.Integral) or isinstance(size, bool):
        raise TypeError(f'object_store_memory must be a number of bytes, or a size like "512m" or "4g", not {given!r}')
    if size < LEAST_STORE_BYTES:
        raise ValueError(f"object_store_memory must be at least {LEAST_STORE_BYTES} bytes, not {given!r}")
    return int(size)


def sort_out(
    given: dict[str, Any],
    settings: Mapping[str, Any] | None,
    system_config: Mapping[str, Any] | None,
    known: list[str],
    whose: str = "init",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What came as further keywords, parted.

    Args:
        known: the keywords that `init` names itself, for a hint at what may have been meant.
        whose: the function's name.

    Returns:
        The settings; and those of Ray's hidden keywords that have an effect.

    Raises:
        RuntimeError: a keyword that is neither `init`'s nor a setting's; Ray raises this, too.
        TypeError: a hidden keyword of the wrong type.
        BadSetting: `settings` is no dict.
    """
    unknown = sorted(name for name in given if name not in FIELDS and name not in _NO_EFFECT and name not in _HIDDEN)
    if unknown:
        raise RuntimeError(f"Unknown keyword argument(s) to {whose}(): {', '.join(unknown)}.{_hint(unknown[0], known)}")
    for name, why in _NO_EFFECT.items():
        if given.get(name):  # False and None ask for nothing
            log.warning("%s(%s=...) has no effect: %s", whose, name, why)
    hidden = {name: given[name] for name in _HIDDEN if given.get(name) is not None}
    if isinstance(hidden.get("_memory"), float):
        hidden["_memory"] = int(hidden["_memory"])
    for name, value in hidden.items():
        _kind(name, value, _HIDDEN[name])
    keywords = {name: value for name, value in given.items() if name in FIELDS}
    if "_temp_dir" in hidden:
        keywords.setdefault("base_folder", hidden["_temp_dir"])
    if settings is not None and not isinstance(settings, Mapping):
        raise BadSetting(f"settings must be a dict of names and values, not {settings!r}")
    return {**known_to_us(system_config), **(settings or {}), **keywords}, hidden


def _hint(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, [*known, *FIELDS], 1)
    return f" Did you mean {near[0]}?" if near else ""


def known_to_us(system_config: Mapping[str, Any] | None) -> dict[str, Any]:
    if system_config is None:
        return {}
    _kind("_system_config", system_config, Mapping)
    ours = {name: RAY_NAMES.get(name, name) for name in system_config}
    passed_over = sorted(name for name in ours if ours[name] not in FIELDS)
    if passed_over:
        log.warning(
            "_system_config: %s: not known here, and without effect; `python -m sparkray.settings` lists what is",
            ", ".join(passed_over),
        )
    return {ours[name]: value for name, value in system_config.items() if ours[name] in FIELDS}


def set_up_logging(configure: bool, level: int | str | None, text_format: str | None) -> None:
    """The driver's `sparkray` loggers, if a level or a format was asked for; else logging is left as it is."""
    if not configure or (level is None and text_format is None):
        return
    formatter = logging.Formatter(text_format or "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s")
    for name in ("sparkray", "sparkray_core"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO if level is None else level)
        ours = next((handler for handler in logger.handlers if isinstance(handler, _Handler)), None)
        if ours is None:
            ours = _Handler()
            logger.addHandler(ours)
        ours.setFormatter(formatter)
        logger.propagate = False  # else the root's handlers would say it once more, as with Ray


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    _StreamHandler = logging.StreamHandler  # has no [] in Python 3.10


class _Handler(_StreamHandler):
    """Ours, to be found again by the next `init`."""
