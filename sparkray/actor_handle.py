"""`@remote` classes: actors, and the handles through which they are called."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, overload

from sparkray.options import Options
from sparkray.remote_function import Signature
from sparkray.session import core
from sparkray_core.errors import ActorAlreadyExistsError
from sparkray_core.ids import HEAD, ActorId, FunctionId, ObjectId, object_id, task_id
from sparkray_core.messages import AddBorrowers, CreateActor, FindActor, NameActor
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Actor, Function, Task
from sparkray_core.model.references import ACTOR_INDEX
from sparkray_core.run import object_ref
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.pack import pack, pack_function
from sparkray_core.wire import values

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

Methods = Mapping[str, int]  # name -> number of returns

_BUILT_IN: Methods = {"__ray_ready__": 1, "__ray_call__": 1, "__ray_terminate__": 1}
_NOT_REMOTE = frozenset(dir(object)) - {"__init__"}


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
        """The same class with other options.

        num_cpus, num_gpus, resources, max_restarts, max_concurrency, name, namespace, lifetime, get_if_exists.
        """
        if "concurrency_groups" in given:
            raise ValueError("concurrency_groups belong to the class: give them to @remote")
        return ActorClass(self._cls, self._options.updated(given, "actor"))

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor. It lives until its last handle is gone, it is killed, or its creator's process ends.

        With lifetime="detached" it lives until it is killed or the session ends.

        Raises:
            TypeError: the arguments do not fit the constructor, or one cannot be pickled.
            ActorAlreadyExistsError: an actor of this name is alive.
        """
        options = self._options
        if options.get_if_exists and not options.name:
            raise ValueError("get_if_exists needs a name")
        here = core()
        self._signature.check(args, kwargs)
        if self._packed is None or self._packed[0] is not here:
            self._packed = (here, *pack_function(here, self._cls, self.__name__))
        methods, group_of = _methods_of(self._cls)
        count = next(here.counter)
        if options.name:
            taken = _claim(here, options, count, (self.__name__, methods))
            if taken is not None:
                if not options.get_if_exists:
                    raise ActorAlreadyExistsError(
                        f"an actor named {options.name!r} is alive in this namespace; get it by get_actor(), or pass "
                        f"get_if_exists=True"
                    )
                return _borrow(here, *taken)
        payload, refs, nested, _made = pack(here, args, kwargs)
        # The head keeps the arguments for restarts, so they are there by value; what they refer to stays pinned.
        waited = [entry for _, entry in refs or ()]
        if waited:
            here.get(waited, None)
        held, placement = options.actor_resources()
        function = self._packed[1]
        setup = {
            "max_concurrency": options.max_concurrency,
            "groups": dict(options.concurrency_groups),
            "group_of": group_of,
            "public_name": options.name,
        }
        detached = options.lifetime == "detached"

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
                options.max_restarts or 0,
                setup,
                detached,
            )

        with here.lock:
            kept = [*waited, *(nested or ())]
            for entry in kept:
                entry.pins += 1
                here.owner.refs.export(entry)
            actor, effects = here.owner.calls.create(count, message)
            actor.entry.contained = kept or None
            actor.entry.pins += detached  # for good
            here._perform(effects)
        return _handle(actor, self.__name__, methods)

    def __reduce__(self) -> Any:
        return ActorClass, (self._cls, self._options)

    def __repr__(self) -> str:
        return f"<actor class {self.__name__}>"


@overload
def method(function: F, /) -> F: ...
@overload
def method(**options: Any) -> Callable[[F], F]: ...
def method(*args: Any, **options: Any) -> Any:
    """Options of an actor's method, for all its calls: `@method(num_returns=2, concurrency_group="io")`."""
    if args:
        return args[0]
    Options().updated(options, "method")

    def mark(function: F) -> F:
        function.__ray_method__ = options  # type: ignore[attr-defined]
        return function

    return mark


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The living actor of that name.

    Raises:
        ValueError: there is none.
    """
    if not name:
        raise ValueError("the name of an actor is not empty")
    here = core()
    key = _key(here, name, namespace)
    found = here.request(HEAD, lambda number: FindActor(number, key))
    if found is None:
        raise ValueError(
            f"Failed to look up actor with name '{name}'. It may have died, never been created, or be in another "
            f"namespace; names of actors that are not detached go with their last handle."
        )
    return _borrow(here, *found)


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of living actors in this namespace; or dicts of "name" and "namespace" for all of them."""
    here = core()
    keys = [key.partition("\0") for key in here.ask(HEAD, "named actors")]
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, _, name in keys]
    return [name for namespace, _, name in keys if namespace == here.namespace]


def _key(here: Core, name: str, namespace: str | None) -> str:
    return f"{here.namespace if namespace is None else namespace}\0{name}"


def _claim(here: Core, options: Options, count: int, facts: Any) -> Any:
    assert options.name
    key = _key(here, options.name, options.namespace)
    actor = ActorId(task_id(here.me, count))
    return here.request(HEAD, lambda number: NameActor(number, key, actor, facts))


def _methods_of(cls: type) -> tuple[dict[str, int], dict[str, str]]:
    """Each method's number of returns, and the concurrency groups of those that have one."""
    returns: dict[str, int] = {}
    groups: dict[str, str] = {}
    for name in dir(cls):
        function = getattr(cls, name, None)
        if name in _NOT_REMOTE or not callable(function):
            continue
        marked: Mapping[str, Any] = getattr(function, "__ray_method__", {})
        number = marked.get("num_returns")
        returns[name] = 1 if number is None else number
        if marked.get("concurrency_group"):
            groups[name] = marked["concurrency_group"]
    return {**returns, **_BUILT_IN}, groups


class ActorHandle:
    """Calls an actor. May be passed to tasks and other actors; the actor lives while any handle does."""

    __slots__ = ("__weakref__", "_actor", "_class_name", "_entry", "_methods")

    def __init__(self, actor: Actor, class_name: str, methods: Methods) -> None:
        self._actor = actor
        self._entry = actor.entry
        self._class_name = class_name
        self._methods = methods

    def __getattr__(self, name: str) -> ActorMethod:
        returns = self._methods.get(name)
        if returns is None:
            raise AttributeError(f"'{self._class_name}' object has no attribute '{name}'")
        return ActorMethod(self, name, returns)

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
        return _rebuild, (self._entry.id, self._class_name, dict(self._methods))

    def __repr__(self) -> str:
        return f"Actor({self._class_name}, {self._actor.id.hex()})"


def _handle(actor: Actor, class_name: str, methods: Methods) -> ActorHandle:
    handle = ActorHandle(actor, class_name, methods)
    actor.entry.weak = weakref.ref(handle)
    return handle


def _known(here: Core, entry_id: bytes, class_name: str, methods: Methods) -> ActorHandle:
    """The one handle of this process for an actor. The core's lock is held."""
    entry = here.owner.refs.find(ObjectId(entry_id))
    known: ActorHandle | None = entry.weak() if entry.weak is not None else None
    if known is None:
        entry.held = True
        actor, effects = here.owner.calls.known(entry)
        here._perform(effects)
        known = _handle(actor, class_name, methods)
    return known


def _rebuild(entry_id: bytes, class_name: str, methods: Methods) -> ActorHandle:
    """The handle of an actor that came inside a value from another process."""
    here = object_ref.core()
    with here.lock:
        known = _known(here, entry_id, class_name, methods)
    values.found_ref(known)
    return known


def _borrow(here: Core, actor: bytes, facts: tuple[str, Methods]) -> ActorHandle:
    """The handle of an actor that the head told us of. Nobody counted us in: we do."""
    entry_id = object_id(actor, ACTOR_INDEX)
    with here.lock:
        known = _known(here, entry_id, *facts)
        entry = known._entry
        if entry.owner != here.me and not entry.registered:
            entry.registered = True
            here._send(entry.owner, AddBorrowers([(entry_id, here.me)]))
    return known


class ActorMethod:
    """`handle.method`: call it with `.remote(...)`. It keeps the actor alive."""

    __slots__ = ("_group", "_handle", "_name", "_returns")

    def __init__(self, handle: ActorHandle, name: str, returns: int, group: str = "") -> None:
        self._handle = handle
        self._name = name
        self._returns = returns
        self._group = group

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"Actor methods cannot be called directly: use '.{self._name}.remote()'.")

    def options(self, **given: Any) -> ActorMethod:
        """The same method with other options: num_returns, concurrency_group."""
        options = Options().updated(given, "method")
        returns = self._returns if options.num_returns is None else options.num_returns
        return ActorMethod(self._handle, self._name, returns, options.concurrency_group or self._group)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; calls from one process to a serial actor run in the order in which they were made."""
        here = core()
        payload, refs, nested, _made = pack(here, args, kwargs)
        count = next(here.counter)
        wire_name = f"{self._name}\0{self._group}" if self._group else self._name
        function = _method_names.get(wire_name)
        if function is None:
            name = f"{self._handle._class_name}.{self._name}"
            function = _method_names[wire_name] = Function(FunctionId(wire_name.encode()), name, b"")
        if self._returns == 1:
            entry = Entry(here.me, count)
            ref: ObjectRef[Any] = ObjectRef(entry)
            here.submit(Task(count, function, payload, refs, nested, [entry], 0, None, self._handle._actor))
            return ref
        entries = [Entry(here.me, count, index) for index in range(self._returns)]
        made: list[ObjectRef[Any]] = [ObjectRef(entry) for entry in entries]
        here.submit(Task(count, function, payload, refs, nested, entries, 0, None, self._handle._actor))
        return made or None


_method_names: dict[str, Function] = {}
