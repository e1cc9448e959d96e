"""Handles of actors, and calling their methods. (How actors are made is in `actor_class.py`.)"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sparkray.actor_facts import ActorFacts, MethodFacts, pack_retried, read_facts
from sparkray.options import DYNAMIC, STREAMING, Options, check_name
from sparkray.session import core
from sparkray.streaming import open_stream
from sparkray_core.errors import ActorHandleNotFoundError, PendingCallsLimitExceeded
from sparkray_core.ids import HEAD, ActorId, ObjectId, object_id
from sparkray_core.messages import AddBorrowers, FindActor
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Actor, Task
from sparkray_core.model.references import ACTOR_INDEX
from sparkray_core.run import forked, object_ref
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.pack import pack
from sparkray_core.wire import values

if TYPE_CHECKING:
    import typing_extensions

    T = typing_extensions.TypeVar("T", default=Any)  # a bare `ActorHandle` is one of any class
else:
    T = TypeVar("T")


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """The living actor of that name.

    Raises:
        ValueError: there is none, or a name is empty.
        TypeError: a name is no string.
    """
    check_name("name", name)
    check_name("namespace", namespace)
    here = core()
    key = key_of(here, name, namespace)
    found = here.request(HEAD, lambda number: FindActor(number, key))
    if found is None:
        raise ValueError(
            f"Failed to look up actor with name '{name}'. It may have died, never been created, or be in another "
            f"namespace; names of actors that are not detached go with their last handle."
        )
    actor, wired = found
    return borrow(here, actor, read_facts(wired))


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of living actors in this namespace; or dicts of "name" and "namespace" for all of them."""
    here = core()
    keys = [key.partition("\0") for key in here.ask(HEAD, "named actors")]
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, _, name in keys]
    return [name for namespace, _, name in keys if namespace == here.namespace]


def key_of(here: Core, name: str, namespace: str | None) -> str:
    return f"{here.namespace if namespace is None else namespace}\0{name}"


class ActorHandle(Generic[T]):
    """Calls an actor. May be passed to tasks and other actors; the actor lives while any handle does."""

    __slots__ = ("__weakref__", "_actor", "_entry", "_facts")

    def __init__(self, actor: Actor, facts: ActorFacts) -> None:
        self._actor = actor
        self._entry = actor.entry
        self._facts = facts

    def __getattr__(self, name: str) -> ActorMethod:
        return ActorMethod(self, self._facts.method(name))

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._facts.names()]

    @property
    def _actor_id(self) -> ActorId:
        """Of Ray's private names the two that programs use: `handle._actor_id.hex()` is what the state API takes."""
        return self._actor.id

    _ray_actor_id = _actor_id

    def __reduce__(self) -> Any:
        here = actor_core(self)
        values.note_ref(self)
        with here.lock:
            here.owner.refs.export(self._entry)
            object_ref.remember(self)
        return _rebuild, (self._entry.id, self._facts.wired)

    def __repr__(self) -> str:
        return f"Actor({self._facts.class_name}, {self._actor.id.hex()})"

    def _repr_html_(self) -> str:
        import html  # only notebooks ask

        return f"<code>{html.escape(repr(self))}</code> {html.escape(self._actor.state)}, as far as this process knows"


def actor_core(handle: ActorHandle[Any]) -> Core:
    """This process's core, if the handle is of its session.

    Raises:
        ActorHandleNotFoundError: it is of a session that has ended.
    """
    here = object_ref.current
    if here is not None and here.owner.refs.knows(handle._entry):
        return here
    forked.refuse()
    raise ActorHandleNotFoundError(
        f"{handle!r} is of a sparkray session that has ended, and so has the actor. References and handles are good "
        f"for one session only: make new ones after init()."
    )


def new_handle(actor: Actor, facts: ActorFacts) -> ActorHandle[Any]:
    handle: ActorHandle[Any] = ActorHandle(actor, facts)
    object_ref.remember(handle)
    return handle


def _known(here: Core, entry_id: bytes, facts: ActorFacts) -> ActorHandle[Any]:
    """The one handle of this process for an actor. The core's lock is held."""
    entry = here.owner.refs.find(ObjectId(entry_id))
    known: ActorHandle[Any] | None = entry.weak() if entry.weak is not None else None
    if known is None:
        entry.held = True
        actor, effects = here.owner.calls.known(entry)
        actor.ordered, actor.serial = facts.ordered, facts.serial
        here._perform(effects)
        known = new_handle(actor, facts)
    return known


def _rebuild(entry_id: bytes, wired: bytes) -> ActorHandle[Any]:
    """The handle of an actor that came inside a value from another process."""
    here = object_ref.core()
    facts = read_facts(wired)
    with here.lock:
        known = _known(here, entry_id, facts)
    values.found_ref(known)
    return known


def borrow(here: Core, actor: bytes, facts: ActorFacts) -> ActorHandle[Any]:
    """The handle of an actor that the head told us of. Nobody counted us in: we do."""
    entry_id = object_id(actor, ACTOR_INDEX)
    with here.lock:
        known = _known(here, entry_id, facts)
        entry = known._entry
        if entry.owner != here.me and not entry.registered:
            entry.registered = True
            here._send(entry.owner, AddBorrowers([(entry_id, here.me)]))
    return known


class ActorMethod:
    """`handle.method`: call it with `.remote(...)`. It keeps the actor alive."""

    __slots__ = ("_facts", "_handle")

    def __init__(self, handle: ActorHandle[Any], facts: MethodFacts) -> None:
        self._handle = handle
        self._facts = facts

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"Actor methods cannot be called directly: use '.{self._facts.name}.remote()'.")

    def options(self, **given: Any) -> ActorMethod:
        """The same method with other options.

        num_returns, max_task_retries, retry_exceptions, concurrency_group, name, enable_task_events,
        _generator_backpressure_num_objects.
        """
        known = self._facts
        options = Options().updated(given, "method")
        returns = known.returns if options.num_returns is None else self._number(options)
        if returns == known.returns < 0 and options._generator_backpressure_num_objects:
            returns = self._number(options)
        facts = MethodFacts(
            known.name,
            options.name or known.called,
            returns,
            known.signature,
            known.retries if options.max_task_retries is None else options.max_task_retries,
            pack_retried(options) if "retry_exceptions" in given else known.retried,
            options.concurrency_group or known.group,
        )
        return ActorMethod(self._handle, facts)

    def _number(self, options: Options) -> int:
        """Of returns, as `Options.returns` gives it."""
        if isinstance(options.num_returns, int):
            return options.num_returns
        returns = self._facts.returns
        if returns == 1:  # a generator that was given another number is looked at where it runs
            raise ValueError(
                f"num_returns='{options.num_returns}' can only be used with generator methods (methods that use "
                f"'yield'), and {self._handle._facts.class_name}.{self._facts.name} is not one"
            )
        return options.stream_returns(STREAMING - returns if DYNAMIC < returns < 0 else 0)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; calls from one process to a serial actor run in the order in which they were made.

        Raises:
            TypeError: the arguments do not fit the signature, or one cannot be pickled.
            PendingCallsLimitExceeded: the actor has a `max_pending_calls`, and so many calls of ours are under way.
        """
        here, handle, facts = object_ref.current, self._handle, self._facts
        if here is None or handle._entry.owner is not here.me:
            here = actor_core(handle)
        signature = facts.signature
        if kwargs or not signature.least <= len(args) <= signature.most:
            signature.check(args, kwargs)
        if handle._facts.most_pending:
            _check_room(here, handle, handle._facts.most_pending)
        payload, refs, nested, _made = pack(here, args, kwargs)
        count = next(here.counter)
        if facts.returns == 1:
            entry = Entry(here.me, count)
            ref: ObjectRef[Any] = ObjectRef(entry)
            here.submit(
                Task(count, facts.function, payload, refs, nested, (entry,), facts.retries, None, handle._actor)
            )
            return ref
        if facts.returns < 0:
            stream, result = open_stream(here, count, facts.returns)
            call = Task(count, facts.function, payload, refs, nested, [stream.end], facts.retries, None, handle._actor)
            call.stream = stream
            here.submit(call)
            return result
        entries = [Entry(here.me, count, index) for index in range(facts.returns)]
        made: list[ObjectRef[Any]] = [ObjectRef(entry) for entry in entries]
        here.submit(Task(count, facts.function, payload, refs, nested, entries, facts.retries, None, handle._actor))
        return made or None


def _check_room(here: Core, handle: ActorHandle[Any], most: int) -> None:
    actor = handle._actor
    for last in (False, True):
        with here.lock:
            here._kick()
            pending = len(actor.queue) + len(actor.inflight) + len(actor.waiting)
        if pending < most:
            return
        if not last:
            here.pump.poll_once()  # answers may have come that nobody has read yet
    raise PendingCallsLimitExceeded(
        f"{pending} calls of this process to {handle!r} are under way, and its max_pending_calls is {most}. Get some "
        f"of their results first, or create the actor with a higher limit."
    )
