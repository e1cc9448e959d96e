"""What every process that has a handle knows of the actor's class: its methods, what fits them, how they are called.

It travels as bytes: inside pickled handles, and to the head with the name of an actor. The head only keeps it.
"""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Mapping
from typing import Any

import cloudpickle

from sparkray.options import Options
from sparkray.signature import Signature
from sparkray_core.ids import FunctionId
from sparkray_core.model.methods import ANY_EXCEPTION, Method, encode
from sparkray_core.model.owner import Function

# A method as it travels: (returns, as `Options.returns` gives them; parameters, as `Signature.to_wire` gives them; how
# often it is called again; for what exceptions, as in `model.methods`)
_Wired = tuple[int, "tuple[str, ...] | None", int, bytes]

_RETURNS = ("num_returns", "_generator_backpressure_num_objects")
_RETRIES = ("max_task_retries", "retry_exceptions")
_NOT_REMOTE = frozenset(dir(object)) - {"__init__"}
_BUILT_IN: Mapping[str, _Wired] = {
    "__ray_ready__": (1, (), 0, b""),
    "__ray_call__": (1, ("/function", "*args", "**kwargs"), 0, b""),
    "__ray_terminate__": (1, (), 0, b""),
}
_KINDS_KEPT = 256  # classes whose facts are kept though no handle refers to them now: reading them takes some 20 us


class MethodFacts:
    """A method, and how it is called: by default, or as `.options()` of it said."""

    __slots__ = ("called", "function", "group", "name", "retried", "retries", "returns", "signature")

    def __init__(
        self,
        name: str,
        called: str,
        returns: int,
        signature: Signature,
        retries: int = 0,
        retried: bytes = b"",
        group: str = "",
    ) -> None:
        self.name = name
        self.called = called  # in what is told of the call
        self.returns = returns
        self.signature = signature
        self.retries = retries  # -1: without end
        self.retried = retried  # for what it raises; as in `model.methods`
        self.group = group  # of concurrency; empty: the method's own
        self.function = Function(FunctionId(encode(Method(name, group, retries, retried))), called, b"")


class ActorFacts:
    """Of one class with its options."""

    __slots__ = ("_known", "_methods", "class_name", "most_pending", "ordered", "serial", "wired")

    def __init__(self, wired: bytes) -> None:
        self.wired = wired
        self.class_name: str
        self.most_pending: int  # calls under way from one process; 0: without limit
        self.ordered: bool  # a call that waits for its arguments holds up those behind it
        self.serial: bool  # it works on one call at a time
        self._methods: dict[str, _Wired]
        self.class_name, self._methods, self.most_pending, self.ordered, self.serial = pickle.loads(wired)
        self._known: dict[str, MethodFacts] = {}  # methods that were called here

    def method(self, name: str) -> MethodFacts:
        """
        Raises:
            AttributeError: there is none of that name.
        """
        known = self._known.get(name)
        if known is not None:
            return known
        wired = self._methods.get(name)
        if wired is None:
            raise AttributeError(f"'{self.class_name}' object has no attribute '{name}'")
        returns, parameters, retries, retried = wired
        called = f"{self.class_name}.{name}"
        known = MethodFacts(name, called, returns, Signature.from_wire(parameters), retries, retried)
        self._known[name] = known
        return known

    def names(self) -> list[str]:
        """Of the methods, without those that are called by Python itself."""
        return [name for name in self._methods if not name.startswith("__")]


@functools.lru_cache(_KINDS_KEPT)
def read_facts(wired: bytes) -> ActorFacts:
    return ActorFacts(wired)


def facts_of(cls: type, options: Options) -> tuple[ActorFacts, dict[str, str]]:
    """Of a class, and the concurrency groups of those of its methods that have one.

    Raises:
        ValueError: the options contradict the class.
    """
    _check_hooks(cls)
    methods: dict[str, _Wired] = {}
    groups: dict[str, str] = {}
    for name in dir(cls):
        function = getattr(cls, name, None)
        if name in _NOT_REMOTE or not callable(function):
            continue
        marked: Mapping[str, Any] = getattr(function, "__ray_method__", {})
        own = {keyword: marked[keyword] for keyword in _RETURNS if keyword in marked}
        ahead = options._actor_generator_backpressure_num_objects
        returns = Options(**own, _actor_generator_backpressure_num_objects=ahead).returns(function)
        said = Options().updated({keyword: marked[keyword] for keyword in _RETRIES if keyword in marked}, "method")
        retries = options.max_task_retries if said.max_task_retries is None else said.max_task_retries
        methods[name] = (returns, _signature(cls, name, function).to_wire(), retries or 0, pack_retried(said))
        if marked.get("concurrency_group"):
            groups[name] = marked["concurrency_group"]
    methods.update(_BUILT_IN)
    most_pending = max(0, options.max_pending_calls or 0)
    serial = not _works_on_several(cls, options)
    ordered = not _is_unordered(cls, options, serial)
    return read_facts(pickle.dumps((cls.__name__, methods, most_pending, ordered, serial))), groups


def pack_retried(options: Options) -> bytes:
    """The exceptions after which a method is called again, as they travel."""
    given = options.retry_exceptions
    if isinstance(given, bool):
        return ANY_EXCEPTION if given else b""
    return cloudpickle.dumps(tuple(given)) if given else b""


_HOOKS = ("__ray_save__", "__ray_restore__")


def _check_hooks(cls: type) -> None:
    """
    Raises:
        ValueError: only one of the two is there, or one is a coroutine or a generator.
    """
    hooks = {name: getattr(cls, name) for name in _HOOKS if hasattr(cls, name)}
    if len(hooks) == 1:
        (there,) = hooks
        raise ValueError(
            f"{cls.__name__} has {there}, but its state can only be kept across restarts with both: "
            f"__ray_save__(self) returns it, __ray_restore__(self, state) takes it back"
        )
    for name, hook in hooks.items():
        if inspect.iscoroutinefunction(hook) or inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
            raise ValueError(f"{name} of {cls.__name__} must be a plain method: it runs between calls, at once")


def _signature(cls: type, name: str, function: Any) -> Signature:
    """What fits it when it is called on an instance. What is no function or method is left to the actor."""
    static = inspect.getattr_static(cls, name)
    if isinstance(static, staticmethod | classmethod):
        return Signature.of(function)
    return Signature.of(function, skip_first=True) if inspect.isfunction(static) else Signature(None)


def _works_on_several(cls: type, options: Options) -> bool:
    """Whether it is async or threaded."""
    methods = (getattr(cls, name, None) for name in dir(cls))
    several = any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in methods)
    return several or bool(options.concurrency_groups) or (options.max_concurrency or 1) > 1


def _is_unordered(cls: type, options: Options, serial: bool) -> bool:
    """Whether calls overtake one that waits for its arguments.

    Raises:
        ValueError: the options want an order that actors of several calls at once do not have.
    """
    wanted = options.allow_out_of_order_execution
    if not serial and wanted is False:
        raise ValueError(
            f"{cls.__name__} works on several calls at once (it is async or threaded), so they do not run in order: "
            f"allow_out_of_order_execution=False cannot be kept"
        )
    return not serial if wanted is None else wanted
