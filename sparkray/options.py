"""The keywords of `@remote` and `.options`, checked when they are given and not when a task fails for them."""

from __future__ import annotations

import inspect
import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparkray.label_selectors import check_fallbacks, check_selector
from sparkray.runtime_env import RuntimeEnv, checked
from sparkray_core.messages import Resources

STREAMING, DYNAMIC = -1, -(1 << 60)  # numbers of returns that are none: see `Options.returns`


@dataclass(frozen=True, slots=True)
class Options:
    """What a task or actor asks for. None: not given."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None  # bytes
    accelerator_type: str | None = None
    priority: int = 0
    max_calls: int | None = None
    scheduling_strategy: Any = None
    label_selector: Mapping[str, str] | None = None
    fallback_strategy: Sequence[Mapping[str, Any]] | None = None
    placement_group: Any = "default"
    placement_group_bundle_index: int = -1
    placement_group_capture_child_tasks: bool | None = None
    _metadata: Mapping[str, Any] | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    num_returns: int | str | None = None
    max_retries: int | None = None
    retry_exceptions: bool | Sequence[type[BaseException]] = False
    max_restarts: int | None = None
    max_task_retries: int | None = None
    max_pending_calls: int | None = None
    allow_out_of_order_execution: bool | None = None
    enable_task_events: bool = True
    name: str | None = None
    namespace: str | None = None
    lifetime: str | None = None
    get_if_exists: bool = False
    max_concurrency: int | None = None
    concurrency_groups: Mapping[str, int] = field(default_factory=dict)
    concurrency_group: str | None = None
    runtime_env: RuntimeEnv | Mapping[str, Any] | None = None
    checkpoint_interval_s: float | None = None
    _generator_backpressure_num_objects: int | None = None
    _actor_generator_backpressure_num_objects: int | None = None

    def updated(self, given: Mapping[str, Any], kind: str) -> Options:
        """These options with some replaced.

        Args:
            kind: "task", "actor" or "method".

        Raises:
            ValueError: a keyword that `kind` does not have, or a value out of range.
            TypeError: a value of the wrong type.
        """
        for keyword, value in given.items():
            check = CHECKS[kind].get(keyword)
            if check is None and keyword in _NOT_TAKEN:
                raise ValueError(f"{keyword!r} is not there for a {kind}: {_NOT_TAKEN[keyword]}")
            if check is None:
                valid = ", ".join(sorted(CHECKS[kind]))
                raise ValueError(f"Invalid option keyword {keyword!r} for a {kind}. Valid ones are: {valid}.")
            check(keyword, value)
        if "runtime_env" in given:
            given = {**given, "runtime_env": checked(given["runtime_env"])}
        return replace(self, **given)

    def returns(self, function: Any) -> int:
        """How many references a call gives: a number, DYNAMIC, or STREAMING less how many items may lie unread (0:
        without limit). A generator's are a stream by default.

        Raises:
            ValueError: it is to be a stream, and the function is no generator.
        """
        yields = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        if self.num_returns is None:
            return self.stream_returns(0) if yields else 1
        if isinstance(self.num_returns, int):
            return self.num_returns
        if not yields:
            raise ValueError(
                f"num_returns='{self.num_returns}' can only be used with generator functions (functions that use "
                f"'yield'), and {getattr(function, '__qualname__', function)} is not one"
            )
        return self.stream_returns(0)

    def stream_returns(self, ahead: int) -> int:
        """`returns` of what is known to be a generator, `ahead` being the limit if none is given here."""
        if self.num_returns == "dynamic":
            return DYNAMIC
        own = self._generator_backpressure_num_objects or self._actor_generator_backpressure_num_objects
        return STREAMING - max(0, ahead if own is None else own)

    def retried(self) -> tuple[type[BaseException], ...]:
        """The classes of the user's exceptions after which a task is called again."""
        if isinstance(self.retry_exceptions, bool):
            return (Exception,) if self.retry_exceptions else ()
        return tuple(self.retry_exceptions)

    def calls_of_a_worker(self) -> int:
        """How many calls of this function a worker gets; 0: any number. GPU memory is given back at a worker's end."""
        if self.max_calls is None:
            return 1 if self.num_gpus else 0
        return self.max_calls

    def task_resources(self) -> Resources:
        return self._resources(1 if self.num_cpus is None else self.num_cpus)

    def actor_resources(self) -> tuple[Resources, Resources]:
        """(held for life, needed when it is placed): an actor for which nothing was asked needs a free CPU to be
        placed and then holds none."""
        if self.num_cpus is None and self.num_gpus is None and not self.resources:
            held = self._resources(0)  # memory alone does not make an actor hold a CPU
            return held, {**held, "CPU": 1000}
        held = self._resources(1 if self.num_cpus is None else self.num_cpus)
        return held, held

    def _resources(self, cpus: float) -> Resources:
        asked = {"CPU": cpus, "GPU": self.num_gpus or 0, "memory": self.memory or 0, **self.resources}
        if self.accelerator_type:
            asked[f"accelerator_type:{self.accelerator_type}"] = 0.001
        return {name: thousandths(amount) for name, amount in asked.items() if amount}


def thousandths(amount: float) -> int:
    """Whole thousandths, rounded up so that nobody gets more than was counted."""
    return math.ceil(round(amount * 1000, 6))


def check_amount(keyword: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{keyword} must be a number, not {value!r}")
    if value < 0 or not math.isfinite(value):
        raise ValueError(f"{keyword} must be finite and not below 0, not {value!r}")


_KEYWORDS = {
    "CPU": "num_cpus",
    "GPU": "num_gpus",
    "memory": "memory (for init: _memory)",
    "object_store_memory": "init's object_store_memory",
}


def check_resources(keyword: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{keyword} must be a dict of names and amounts, not {value!r}")
    for name, amount in value.items():
        if name in _KEYWORDS:
            raise ValueError(f"{name} does not go into resources, for every node has it: use {_KEYWORDS[name]}")
        if not isinstance(name, str):
            raise TypeError(f"the names in {keyword} must be strings, not {name!r}")
        check_amount(f"{keyword}[{name!r}]", amount)


def _whole(least: int) -> Any:
    def check(keyword: str, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{keyword} must be a whole number, not {value!r}")
        if value < least:
            raise ValueError(f"{keyword} must be at least {least}, not {value}")

    return check


def _returns(keyword: str, value: Any) -> None:
    if value not in ("streaming", "dynamic") and isinstance(value, str):
        raise TypeError(f"{keyword} must be a whole number, 'streaming' or 'dynamic', not {value!r}")
    if value == "dynamic":
        warnings.warn(
            "num_returns='dynamic' is deprecated: num_returns='streaming' gives each item as soon as it is there",
            DeprecationWarning,
            stacklevel=5,
        )
    if not isinstance(value, str):
        _whole(0)(keyword, value)


def _ahead(keyword: str, value: Any) -> None:
    if value != -1:
        _whole(1)(keyword, value)


def _text(keyword: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{keyword} must be a string, not {value!r}")


def check_name(keyword: str, value: Any) -> None:
    """Of what can be looked up by it."""
    _text(keyword, value)
    if value == "":
        raise ValueError(f"{keyword} must be a string that is not empty")


def _exceptions(keyword: str, value: Any) -> None:
    if isinstance(value, bool):
        return
    if not isinstance(value, list | tuple) or not all(
        isinstance(one, type) and issubclass(one, Exception) for one in value
    ):
        raise TypeError(f"{keyword} must be True, False or a list of exception classes, not {value!r}")


def _lifetime(keyword: str, value: Any) -> None:
    if value not in (None, "detached", "non_detached"):
        raise ValueError(f"{keyword} must be None, 'detached' or 'non_detached', not {value!r}")


def _flag(keyword: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{keyword} must be True or False, not {value!r}")


def _flag_or_none(keyword: str, value: Any) -> None:
    if value is not None:
        _flag(keyword, value)


def _groups(keyword: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{keyword} must be a dict of names and numbers of calls at once, not {value!r}")
    for name, limit in value.items():
        _text("a name in " + keyword, name)
        _whole(1)(f"{keyword}[{name!r}]", limit)


def _runtime_env(keyword: str, value: Any) -> None:
    checked(value)


def _priority(keyword: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{keyword} must be a whole number, not {value!r}")


def _strategy(keyword: str, value: Any) -> None:
    if value is None or (isinstance(value, str) and value in ("DEFAULT", "SPREAD")):
        return
    from sparkray import scheduling  # imports this module

    known = (
        scheduling.PlacementGroupSchedulingStrategy,
        scheduling.NodeAffinitySchedulingStrategy,
        scheduling.NodeLabelSchedulingStrategy,
    )
    if not isinstance(value, known):
        raise ValueError(
            f"{keyword} must be None, 'DEFAULT', 'SPREAD' or one of {', '.join(one.__name__ for one in known)}, not "
            f"{value!r}"
        )


def _placement_group(keyword: str, value: Any) -> None:
    from sparkray.placement_groups import PlacementGroup

    if value is not None and value != "default" and not isinstance(value, PlacementGroup):
        raise ValueError(f"{keyword} must be a PlacementGroup, None or 'default', not {value!r}")


def _bundle_index(keyword: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{keyword} must be a whole number, not {value!r}")


def _any(keyword: str, value: Any) -> None:
    """Whatever it is, nothing comes of it."""


# Keywords that Ray has, and why they are refused.
_NOT_TAKEN: Mapping[str, str] = {
    "_labels": "Ray does nothing with it; label_selector chooses nodes by their labels",
    "_num_objects_per_yield": "each `yield` gives one item; yield several values one by one, or as one tuple",
    "object_store_memory": "the store is shared by all that runs on a node; its size is given to init()",
    "enable_tensor_transport": "tensors travel through shared memory",
    "tensor_transport": "tensors travel through shared memory",
    "max_restarts": "it belongs to actors; a task has max_retries",
    "max_task_retries": "it belongs to actors; a task has max_retries",
    "max_retries": "it belongs to tasks; an actor has max_restarts, and its calls max_task_retries",
    "max_calls": "it belongs to tasks; an actor ends with exit_actor()",
    "checkpoint_interval_s": "it belongs to actors with __ray_save__",
    "priority": "it belongs to tasks; calls of an actor run in their order",
}

_COMMON: dict[str, Any] = {
    "num_cpus": check_amount,
    "num_gpus": check_amount,
    "resources": check_resources,
    "memory": check_amount,
    "accelerator_type": _text,
    "scheduling_strategy": _strategy,
    "label_selector": check_selector,
    "fallback_strategy": check_fallbacks,
    "placement_group": _placement_group,
    "placement_group_bundle_index": _bundle_index,
    "placement_group_capture_child_tasks": _flag_or_none,
    "name": _text,
    "enable_task_events": _flag,
    "runtime_env": _runtime_env,
    "_metadata": _any,
}
CHECKS: Mapping[str, dict[str, Any]] = {
    "task": {
        **_COMMON,
        "num_returns": _returns,
        "max_retries": _whole(-1),
        "retry_exceptions": _exceptions,
        "_generator_backpressure_num_objects": _ahead,
        "max_calls": _whole(0),
        "priority": _priority,
    },
    "actor": {
        **_COMMON,
        "name": check_name,
        "max_restarts": _whole(-1),
        "max_task_retries": _whole(-1),
        "max_pending_calls": _whole(-1),
        "allow_out_of_order_execution": _flag_or_none,
        "namespace": check_name,
        "lifetime": _lifetime,
        "get_if_exists": _flag,
        "max_concurrency": _whole(1),
        "concurrency_groups": _groups,
        "checkpoint_interval_s": check_amount,
        "_actor_generator_backpressure_num_objects": _ahead,
    },
    "method": {
        "num_returns": _returns,
        "name": _text,
        "concurrency_group": _text,
        "max_task_retries": _whole(-1),
        "retry_exceptions": _exceptions,
        "enable_task_events": _flag,
        "_generator_backpressure_num_objects": _ahead,
    },
}
