"""Metrics of one's own, in driver, tasks and actors: Ray's `ray.util.metrics`.

    calls = Counter("calls", description="of f", tag_keys=("kind",))
    calls.inc(tags={"kind": "quick"})

Each process counts for itself; nothing is sent. Who scrapes the session's endpoint (`init(_metrics_export_port=0)`, or
`sparkray.metrics_export.serve`) gets sums over all processes, those that ended too; of gauges one value per process.
"""

from __future__ import annotations

import re
import threading
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from sparkray_core.run import records

__all__ = ["Counter", "Gauge", "Histogram"]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_lock = threading.Lock()
_all: dict[tuple[str, str], _Values] = {}  # by kind and name: two objects of one name count together


class _Values:
    """What one process has counted under one name."""

    def __init__(self, metric: Metric, boundaries: tuple[float, ...] = ()) -> None:
        self.kind, self.name, self.description = type(metric).__name__, metric._name, metric._description
        self.tag_keys = metric._tag_keys
        self.boundaries = boundaries
        self.values: dict[tuple[str, ...], Any] = {}  # by values of tags: a number; of a histogram buckets and sum


class Metric:
    """What the three kinds have in common."""

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        """
        Args:
            tag_keys: names of tags; each record must have a value for each of them.

        Raises:
            ValueError: an empty name.
            TypeError: tag_keys is no tuple of strings.
        """
        if not name:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        self._is_discarded = _NAME.fullmatch(name) is None
        if self._is_discarded:
            warnings.warn(
                f"Invalid metric name: {name}. Metric will be discarded and data will not be collected or published. "
                f"Metric names can only contain letters, numbers, _, and :. Metric names cannot start with numbers.",
                UserWarning,
                stacklevel=3,
            )
        self._name = name
        self._description = description
        self._tag_keys = tag_keys or ()
        self._default_tags: Mapping[str, str] = {}
        if not isinstance(self._tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(self._tag_keys)}")
        for key in self._tag_keys:
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
        self._values = _values_of(self, tuple(getattr(self, "boundaries", ())))

    def set_default_tags(self, default_tags: Mapping[str, str]) -> Any:
        """Values for tags that a record does not give itself.

        Returns:
            The metric.

        Raises:
            ValueError: a key that is not one of the metric's.
            TypeError: a value that is no string.
        """
        for key, value in default_tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")
        self._default_tags = default_tags
        return self

    def _tags(self, tags: Mapping[str, str] | None) -> tuple[str, ...]:
        for value in (tags or {}).values():
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")
        given = {**self._default_tags, **(tags or {})}
        missing = [key for key in self._tag_keys if key not in given]
        if missing:
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        return tuple(given[key] for key in self._tag_keys)

    @property
    def info(self) -> dict[str, Any]:
        """name, description, tag_keys and default_tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": self._default_tags,
        }

    def __reduce__(self) -> Any:
        return type(self), (self._name, self._description, self._tag_keys)


class Counter(Metric):
    """Grows, and is summed up over all processes."""

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """
        Raises:
            TypeError: not a number.
            ValueError: not above 0, or a tag is missing.
        """
        _check_number(value)
        if value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        key = self._tags(tags)
        with _lock:
            self._values.values[key] = self._values.values.get(key, 0.0) + value


class Gauge(Metric):
    """The last value that was set, one for each process."""

    def set(self, value: float | None, tags: Mapping[str, str] | None = None) -> None:
        """None changes nothing.

        Raises:
            TypeError: not a number.
            ValueError: a tag is missing.
        """
        if value is None:
            return
        _check_number(value)
        self._values.values[self._tags(tags)] = float(value)


class Histogram(Metric):
    """How many values fell into which range, and their sum; summed up over all processes."""

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        """
        Args:
            boundaries: upper ends of the ranges, above 0 and ascending.

        Raises:
            ValueError: no boundaries, or one that is not above 0 or not above the one before.
        """
        if not boundaries:
            raise ValueError(
                "boundaries argument should be provided when using the Histogram class. "
                'e.g., Histogram("name", boundaries=[1.0, 2.0])'
            )
        for position, boundary in enumerate(boundaries):
            if boundary <= 0:
                raise ValueError(
                    f"Invalid `boundaries` argument at index {position}, {boundaries}. Use positive values for the "
                    f"arguments."
                )
        if any(one >= other for one, other in pairwise(boundaries)):
            raise ValueError(f"`boundaries` must ascend: {boundaries}")
        self.boundaries = list(boundaries)
        super().__init__(name, description, tag_keys)

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """
        Raises:
            TypeError: not a number.
            ValueError: a tag is missing.
        """
        _check_number(value)
        key = self._tags(tags)
        with _lock:
            counts = self._values.values.setdefault(key, [0] * (len(self.boundaries) + 1) + [0.0])
            counts[bisect_left(self.boundaries, value)] += 1
            counts[-1] += value

    @property
    def info(self) -> dict[str, Any]:
        return {**super().info, "boundaries": self.boundaries}

    def __reduce__(self) -> Any:
        return Histogram, (self._name, self._description, self.boundaries, self._tag_keys)


def _check_number(value: Any) -> None:
    if not isinstance(value, (int, float)):
        raise TypeError(f"value must be int or float, got {type(value)}.")


def _values_of(metric: Metric, boundaries: tuple[float, ...]) -> _Values:
    if metric._is_discarded:
        return _Values(metric, boundaries)
    key = type(metric).__name__, metric._name
    with _lock:
        found = _all.get(key)
        if found is None or (found.tag_keys, found.boundaries) != (metric._tag_keys, boundaries):
            found = _all[key] = _Values(metric, boundaries)
    records.user_metrics, records.user_counters = snapshot, lasting
    return found


def snapshot() -> list[Any]:
    """(kind, name, description, tag keys, boundaries, [(tag values, value), ...]) of each, as primitives."""
    with _lock:
        return [
            (one.kind, one.name, one.description, one.tag_keys, one.boundaries, _copied(one)) for one in _all.values()
        ]


def lasting() -> dict[Any, Any]:
    """What must not shrink when this process ends: (kind, name, ..., boundaries, tag values) -> value."""
    return {
        (*described, tags): value
        for *described, listed in snapshot()
        if described[0] != "Gauge"
        for tags, value in listed
    }


def _copied(values: _Values) -> list[Any]:
    return [(tags, list(value) if isinstance(value, list) else value) for tags, value in values.values.items()]
