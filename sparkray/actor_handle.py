"""`@remote` classes: actors, and the handles through which they are called."""

from __future__ import annotations

import weakref
from typing import Any, Generic, TypeVar

from sparkray.options import Options
from sparkray.remote_function import Signature
from sparkray.session import core
from sparkray_core.ids import ActorId, FunctionId, ObjectId
from sparkray_core.messages import CreateActor
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Actor, Function, Task
from sparkray_core.run import object_ref
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.pack import pack, pack_function
from sparkray_core.wire import values

T = TypeVar("T")


class ActorClass(Generic[T]):
    """A class whose instances live in a worker of their own: `Cls.remote(...)` returns a handle at once."""

    def __init__(self, cls: type[T], options: Options) -> None:
        self._cls = cls
        self._options = options
        self._packed: tuple[Core, Function, list[Any]] | None = None
        self._signature = Signature(cls.__init__, skip_first=True)
        self.__name__ = cls.__name__
        self.__doc__ = cls.__doc__
        self.__module__ = cls.__module__

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        raise TypeError(
            f"Actors cannot be instantiated directly. Instead of '{self.__name__}()', use '{self.__name__}.remote()'."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._cls, name)

    def options(self, **given: Any) -> ActorClass[T]:
        """The same class with other options: num_cpus, num_gpus, resources, max_restarts, name."""
        return ActorClass(self._cls, self._options.updated(given, "actor"))

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor. It lives until its last handle is gone, it is killed, or its creator's process ends.

        Raises:
            TypeError: the arguments do not fit the constructor, or one cannot be pickled.
        """
        here = core()
        self._signature.check(args, kwargs)
        if self._packed is None or self._packed[0] is not here:
            self._packed = (here, *pack_function(self._cls, self.__name__))
        function = self._packed[1]
        payload, refs, nested = pack(here, args, kwargs)
        # The head keeps the arguments for restarts, so they are there by value; what they refer to stays pinned.
        waited = [entry for _, entry in refs or ()]
        if waited:
            here.get(waited, None)
        held, placement = self._options.actor_resources()
        restarts = self._options.max_restarts or 0

        def message(actor: ActorId) -> CreateActor:
            wired = [(where, entry.value, entry.id) for where, entry in refs or () if entry.value is not None]
            return CreateActor(
                actor,
                self.__name__,
                function.id,
                function.blob,
                payload,
                wired or None,
                held,
                placement,
                restarts,
            )

        with here.lock:
            for entry in [*waited, *(nested or ())]:
                entry.pins += 1
                here.owner.refs.export(entry)
            actor, effects = here.owner.calls.create(next(here.counter), message)
            if waited or nested:
                actor.entry.contained = [*waited, *(nested or ())]
            here._perform(effects)
        return _handle(actor, self.__name__, _methods_of(self._cls))

    def __reduce__(self) -> Any:
        return ActorClass, (self._cls, self._options)

    def __repr__(self) -> str:
        return f"<actor class {self.__name__}>"


def _methods_of(cls: type) -> frozenset[str]:
    return frozenset(name for name in dir(cls) if callable(getattr(cls, name, None)) and name not in _OBJECT_METHODS)


_OBJECT_METHODS = frozenset(dir(object)) - {"__init__"} | {"__init__", "__class__"}


class ActorHandle:
    """Calls an actor. May be passed to tasks and other actors; the actor lives while any handle does."""

    __slots__ = ("__weakref__", "_actor", "_class_name", "_entry", "_methods")

    def __init__(self, actor: Actor, class_name: str, methods: frozenset[str]) -> None:
        self._actor = actor
        self._entry = actor.entry
        self._class_name = class_name
        self._methods = methods

    def __getattr__(self, name: str) -> ActorMethod:
        if name in self._methods:
            return ActorMethod(self, name, 1)
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"'{self._class_name}' object has no attribute '{name}'")

    def __del__(self) -> None:
        object_ref.dropped.append(self._entry)
        if object_ref.current is not None and object_ref.current.pump.asleep:
            object_ref.current.pump.wake()

    def __reduce__(self) -> Any:
        here = object_ref.core()
        values.note_ref(self)
        with here.lock:
            here.owner.refs.export(self._entry)
            self._entry.weak = weakref.ref(self)
        return _rebuild, (self._entry.id, self._class_name, tuple(self._methods))

    def __repr__(self) -> str:
        return f"Actor({self._class_name}, {self._actor.id.hex()})"


def _handle(actor: Actor, class_name: str, methods: frozenset[str]) -> ActorHandle:
    handle = ActorHandle(actor, class_name, methods)
    actor.entry.weak = weakref.ref(handle)
    return handle


def _rebuild(entry_id: bytes, class_name: str, methods: tuple[str, ...]) -> ActorHandle:
    """The handle of an actor that came from another process: the one that is here already, if any."""
    here = object_ref.core()
    with here.lock:
        entry = here.owner.refs.find(ObjectId(entry_id))
        known = entry.weak() if entry.weak is not None else None
        if known is None:
            entry.held = True
            actor, effects = here.owner.calls.known(entry)
            here._perform(effects)
            known = _handle(actor, class_name, frozenset(methods))
    values.found_ref(known)
    return known


class ActorMethod:
    """`handle.method`: call it with `.remote(...)`. It keeps the actor alive."""

    __slots__ = ("_handle", "_name", "_returns")

    def __init__(self, handle: ActorHandle, name: str, returns: int) -> None:
        self._handle = handle
        self._name = name
        self._returns = returns

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"Actor methods cannot be called directly: use '.{self._name}.remote()'.")

    def options(self, **given: Any) -> ActorMethod:
        """The same method with other options: num_returns."""
        returns = Options().updated(given, "method").num_returns
        return ActorMethod(self._handle, self._name, 1 if returns is None else returns)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; calls from one process run in the order in which they were made."""
        here = core()
        payload, refs, nested = pack(here, args, kwargs)
        count = next(here.counter)
        entries = [Entry(here.me, count, index) for index in range(self._returns)]
        made: list[ObjectRef[Any]] = [ObjectRef(entry) for entry in entries]
        function = _method_names.get(self._name)
        if function is None:
            function = _method_names[self._name] = Function(FunctionId(self._name.encode()), self._name, b"")
        here.submit(Task(count, function, payload, refs, nested, entries, 0, None, self._handle._actor))
        if self._returns == 1:
            return made[0]
        return made or None


_method_names: dict[str, Function] = {}
