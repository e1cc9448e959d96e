"""`JobConfig` and `LoggingConfig`: what `init` can be told of a job, under Ray's names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparkray_core.run.logs import ENCODINGS, STANDARD

__all__ = ["JobConfig", "LoggingConfig"]


@dataclass
class LoggingConfig:
    """How the root logger writes, in the driver and in all tasks and actors of the session that it starts.

    Args:
        encoding: "TEXT" or "JSON", one object to a line. Both tell job, node, worker, task and actor.
        log_level: a level's name, as `logging` has it.
        additional_log_standard_attrs: attributes of `logging.LogRecord` that each line has, too.

    Raises:
        ValueError: an encoding, level or attribute that there is not.
    """

    encoding: str = "TEXT"
    log_level: str = "INFO"
    additional_log_standard_attrs: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(f"Invalid encoding type: {self.encoding!r}. Valid ones are: {', '.join(ENCODINGS)}")
        if not isinstance(self.log_level, str) or not isinstance(logging.getLevelName(self.log_level), int):
            raise ValueError(f"log_level must be the name of a level of logging, not {self.log_level!r}")
        for name in self.additional_log_standard_attrs:
            if name not in STANDARD:
                raise ValueError(
                    f"Unknown python logging standard attribute: {name}. Valid ones are: {', '.join(sorted(STANDARD))}"
                )

    def to_dict(self) -> dict[str, Any]:
        return {
            "encoding": self.encoding,
            "log_level": self.log_level,
            "additional_log_standard_attrs": list(self.additional_log_standard_attrs),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> LoggingConfig:
        return cls(**d)

    def facts(self) -> dict[str, Any]:
        """As it travels to workers: `sparkray_core.run.logs.configure` takes it."""
        return {
            "encoding": self.encoding,
            "log_level": self.log_level,
            "attributes": list(self.additional_log_standard_attrs),
        }


LIFETIMES = ("non_detached", "detached")


@dataclass
class JobConfig:
    """Defaults of a job.

    Args:
        jvm_options: accepted; there are no Java workers.
        code_search_path: folders where workers look for modules, before the driver's own.
        runtime_env: of all tasks and actors; that of `init` wins over it.
        metadata: strings by name, for whoever asks; nothing here goes by them.
        ray_namespace: of names of actors, where none is given; that of `init` wins over it.
        default_actor_lifetime: "detached" or "non_detached": of actors for which no lifetime is given.

    Raises:
        TypeError, ValueError: what none of them can be.
    """

    jvm_options: Sequence[str] | None = None
    code_search_path: Sequence[str] | None = None
    runtime_env: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] | None = None
    ray_namespace: str | None = None
    default_actor_lifetime: str = "non_detached"

    def __post_init__(self) -> None:
        for name in ("jvm_options", "code_search_path"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, list | tuple) and all(type(one) is str for one in value)):
                raise TypeError(f"{name} must be a list of strings, not {value!r}")
        if self.ray_namespace is not None:
            self.set_ray_namespace(self.ray_namespace)
        self.set_default_actor_lifetime(self.default_actor_lifetime)
        for name, value in (self.metadata or {}).items():
            self.set_metadata(name, value)

    @classmethod
    def from_json(cls, job_config_json: Mapping[str, Any]) -> JobConfig:
        """From a dict of the fields; others than these are passed over, as Ray does."""
        return cls(**{name: value for name, value in job_config_json.items() if name in cls.__dataclass_fields__})

    def set_metadata(self, key: str, value: str) -> None:
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must be strings by strings, not {key!r}: {value!r}")
        self.metadata = {**(self.metadata or {}), key: value}

    def set_ray_namespace(self, ray_namespace: str) -> None:
        if not isinstance(ray_namespace, str) or not ray_namespace:
            raise ValueError(f"ray_namespace must be a string that is not empty, not {ray_namespace!r}")
        self.ray_namespace = ray_namespace

    def set_runtime_env(self, runtime_env: Mapping[str, Any] | None, validate: bool = False) -> None:
        """`init` checks it, whether `validate` or not."""
        self.runtime_env = runtime_env

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        if default_actor_lifetime not in LIFETIMES:
            raise ValueError(
                f"Default actor lifetime must be one of {', '.join(LIFETIMES)}, not {default_actor_lifetime!r}"
            )
        self.default_actor_lifetime = default_actor_lifetime
