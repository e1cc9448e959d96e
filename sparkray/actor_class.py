"""`@remote` classes: how actors are made. (How they are called is in `actor_handle.py`.)"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar, overload

from sparkray.actor_facts import ActorFacts, facts_of, read_facts
from sparkray.actor_handle import ActorHandle, borrow, key_of, new_handle
from sparkray.environments import environment
from sparkray.options import Options
from sparkray.placing import where
from sparkray.runtime_env import checked
from sparkray.session import ANONYMOUS, core
from sparkray.signature import Signature
from sparkray_core.errors import ActorAlreadyExistsError
from sparkray_core.ids import HEAD, ActorId, task_id
from sparkray_core.messages import STORED, CreateActor, NameActor, Value
from sparkray_core.model.owner import Function
from sparkray_core.model.resources import larger
from sparkray_core.run.core import Core
from sparkray_core.run.pack import pack, pack_function

log = logging.getLogger(__name__)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_OWN = frozenset({"_cls", "_options", "_packed", "_known", "_signature"})  # attributes of an ActorClass itself


class Metadata(NamedTuple):
    """What Ray keeps under `Cls.__ray_metadata__`, as far as programs use it."""

    modified_class: type
    class_name: str
    module: str


class ActorClass(Generic[T]):
    """A class whose instances live in a worker of their own: `Cls.remote(...)` returns a handle at once.

    It stays a class to others: `class Sub(Cls)` inherits from the plain class (and is plain itself, until it is made
    remote), `isinstance(x, Cls)` and `issubclass(Sub, Cls)` ask about it, and its attributes, class methods and static
    methods are those of the plain class. `Cls(...)` raises, as in Ray; `Cls.cls(...)` makes an instance here.
    """

    def __init__(self, cls: type[T], options: Options) -> None:
        self._cls = cls
        self._options = options
        self._packed: tuple[Core, Function, list[Any]] | None = None
        self._known: tuple[ActorFacts, dict[str, str]] | None = None
        self._signature: Signature | None = None  # read at the first use: a class that names itself comes unfinished
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

    def __setattr__(self, name: str, value: Any) -> None:
        """Attributes of the class are set on the class. Actors made later see them, until the class has travelled."""
        if name in _OWN or name.startswith("__"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._cls, name, value)

    @property
    def cls(self) -> type[T]:
        """The plain class: for instances in this process, and for bases where a type checker looks on."""
        return self._cls

    @property
    def __ray_metadata__(self) -> Metadata:
        return Metadata(self._cls, self.__name__, self.__module__)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type]:
        return (self._cls,)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._cls)

    def __subclasscheck__(self, subclass: Any) -> bool:
        return issubclass(subclass._cls if isinstance(subclass, ActorClass) else subclass, self._cls)

    def options(self, **given: Any) -> ActorClass[T]:
        """The same class with other options.

        num_cpus, num_gpus, resources, max_restarts, max_task_retries, max_pending_calls, max_concurrency,
        allow_out_of_order_execution, name, namespace, lifetime, get_if_exists,
        checkpoint_interval_s, runtime_env, scheduling_strategy, label_selector, fallback_strategy.
        """
        if "concurrency_groups" in given:
            raise ValueError("concurrency_groups belong to the class: give them to @remote")
        return ActorClass(self._cls, self._options.updated(given, "actor"))

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """Create an actor. It lives until its last handle is gone, it is killed, or its creator's process ends.

        With lifetime="detached" it lives until it is killed or the session ends.

        Raises:
            TypeError: the class is abstract, the arguments do not fit the constructor, or one cannot be pickled.
            ActorAlreadyExistsError: an actor of this name is alive.
        """
        options = self._options
        if options.get_if_exists and not options.name:
            raise ValueError("get_if_exists needs a name")
        here = core()
        if inspect.isabstract(self._cls):
            missing = ", ".join(sorted(self._cls.__abstractmethods__))  # type: ignore[attr-defined]
            raise TypeError(f"Can't instantiate abstract class {self.__name__}: subclasses define {missing}")
        if self._signature is None:
            self._signature = _constructor(self._cls)
        self._signature.check(args, kwargs)
        if self._packed is None or self._packed[0] is not here:
            self._packed = (here, *pack_function(here, self._cls, self.__name__))
        env = environment(here, checked(options.runtime_env))
        held, placement = options.actor_resources()
        at = where(here, options, f"the actor {self.__name__}", larger(placement, held))
        facts, group_of = self._facts()
        count = next(here.counter)
        if options.name:
            taken = _claim(here, options, count, facts.wired)
            if taken is not None:
                if not options.get_if_exists:
                    raise ActorAlreadyExistsError(
                        f"an actor named {options.name!r} is alive in this namespace; get it by get_actor(), or pass "
                        f"get_if_exists=True"
                    )
                actor, wired = taken
                return borrow(here, actor, read_facts(wired))
        payload, refs, nested, _made = pack(here, args, kwargs)
        # The head keeps the arguments for restarts, so they are there by value; what they refer to stays pinned.
        waited = [entry for _, entry in refs or ()]
        function = self._packed[1]
        setup = {
            "max_concurrency": options.max_concurrency,
            "groups": dict(options.concurrency_groups),
            "group_of": group_of,
            "public_name": options.name,
            "facts": facts.wired,
            "save_every_s": options.checkpoint_interval_s,
        }
        detached = (options.lifetime or here.actor_lifetime) == "detached"
        if detached and options.name and options.namespace is None and here.namespace.startswith(ANONYMOUS):
            log.warning(
                "The detached actor %r is in the anonymous namespace of this driver: no other driver will find it. "
                "Give a namespace, here or to init().",
                options.name,
            )

        def message(actor: ActorId) -> CreateActor:
            # One that got lost since we waited for it is nowhere: the actor asks its owner for it.
            lost: Value = (STORED, 0, ())
            wired = [(where, entry.value or lost, entry.id) for where, entry in refs or ()]
            for entry in waited:
                entry.seen = True  # one that failed is told by the constructor
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
                env,
                at,
            )

        with here.lock:
            kept = [*waited, *(nested or ()), *(ref._entry for ref in self._packed[2])]  # the last: of its closures
            for entry in kept:
                entry.pins += 1
                here.owner.refs.export(entry)
            actor, effects = here.owner.calls.create(count, message, waited)
            actor.ordered, actor.serial = facts.ordered, facts.serial
            actor.entry.contained = kept or None
            actor.entry.pins += detached  # for good
            here._perform(effects)
        if here.serial:
            here.look()
        return new_handle(actor, facts)

    def _facts(self) -> tuple[ActorFacts, dict[str, str]]:
        """What its handles have to know, and the concurrency groups of the methods that have one."""
        if self._known is None:
            self._known = facts_of(self._cls, self._options)
        return self._known

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


def _claim(here: Core, options: Options, count: int, facts: Any) -> Any:
    assert options.name
    key = key_of(here, options.name, options.namespace)
    actor = ActorId(task_id(here.me, count))
    return here.request(HEAD, lambda number: NameActor(number, key, actor, facts))


def _constructor(cls: Any) -> Signature:
    if cls.__init__ is object.__init__ and cls.__new__ is object.__new__ and type(cls).__call__ is type.__call__:
        return Signature(())
    return Signature.of(cls.__init__, skip_first=True)
