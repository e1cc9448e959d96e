"""What a driver's or worker's own code can want of the engine: to get, wait, put, read, and to pass references on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sparkray_core import errors
from sparkray_core.ids import HEAD, GroupId, NodeId, ObjectId, ProcessId, TaskId
from sparkray_core.messages import (
    DEPENDENT,
    ERROR,
    FAILED,
    STORED,
    AllocateObject,
    Answer,
    Ask,
    EndSession,
    ExplainNode,
    FreeObjects,
    Inspect,
    LogLines,
    Message,
    NodeGone,
    NodeSaid,
    ObjectAllocated,
    ObjectGone,
    ObjectPinned,
    ObjectRefused,
    PinObject,
    ProcessGone,
    ReplicateObject,
    SealObjects,
    UnpinObjects,
    Value,
)
from sparkray_core.model.deliveries import Delivery
from sparkray_core.model.effects import Effect
from sparkray_core.model.entries import Entry, bare, is_failure, place
from sparkray_core.model.owner import Actor
from sparkray_core.model.streams import Stream
from sparkray_core.model.where import NO_GROUP
from sparkray_core.run import forked, modules, object_ref
from sparkray_core.run.failures import error_of
from sparkray_core.run.folders import spill_path
from sparkray_core.run.local_process import LocalProcess, Maker
from sparkray_core.run.obituaries import Obituaries
from sparkray_core.run.object_ref import ObjectRef, remember
from sparkray_core.run.output import Printer
from sparkray_core.run.pump import Getter, now
from sparkray_core.run.records import clock
from sparkray_core.run.rooms import Rooms
from sparkray_core.run.warmth import MapAhead, warm_bytes
from sparkray_core.settings import Settings
from sparkray_core.store.segment import pinned_file_view
from sparkray_core.wire import values

if TYPE_CHECKING:
    from sparkray_core.store.copying import Copier

# For room in the store, or a value from a disk or another node. Its raylet's end is heard of at once: this is for one
# that hangs.
ROOM_LIMIT_S = 600.0


class Core(LocalProcess):
    """Connected from `connect` until `close`. Every method may be called from any thread."""

    serial = False  # local mode: what is submitted has run when that returns

    def __init__(self, me: ProcessId, folder: str, token: bytes, role: str, settings: Settings | None = None) -> None:
        super().__init__(me, folder, token, role, settings)
        self.inline_bytes = self.settings.inline_bytes
        self.actor_lifetime: str | None = None  # of actors for which none is given
        self.namespace = ""  # of names of actors, where none is given
        self.job = "01000000"  # the id of the driver's job for which this process works; the first one's, if not told
        self.driver: ProcessId | None = None  # of that job, if it is not the one that started the session
        self.env = ""  # this worker's environment, or the job's in its driver: what tasks from here inherit
        self.group = NO_GROUP  # the placement group of the task or actor that runs here, and whether it captures
        self.bundles: dict[GroupId, list[dict[str, float]]] = {}  # of placement groups that were looked at here
        self.place: object = object()  # another one wherever other options follow from where the code runs
        self._outside = self.place
        self.known_folders = modules.search_path()  # workers look there for modules; what is added later is told
        self.packages: object = None  # what this process packed for environments; the API's business
        self._replies: dict[Any, _Reply] = {}
        self._asked: dict[ProcessId, list[_Reply]] = {}  # whose end would leave a question without its answer
        self.runs: Callable[[], list[Any]] | None = None  # the task that the main thread runs, as in `Records.active`
        self.name_of: Callable[[bytes], str] | None = None  # the name of a task's function, in a worker that has had it
        self.function_name: Callable[[str], str] | None = None  # of the task of that name, with its module; in a worker
        self.named: dict[tuple[ProcessId, int], TaskId] = {}  # tasks whose results have ids of another owner
        self._warned_of_replicas = False  # that there are more than nodes
        self.is_async = False  # this is an actor with an event loop
        self.pickled_refs: set[ObjectRef[Any]] = set()  # by users' own pickles: they are kept for good
        if not self.settings.ignore_unhandled_errors:
            self.owner.refs.on_unseen_failure = self._note_unhandled
        self._unmapped: MapAhead | None = None  # until there is a use for it
        self._rooms: Rooms | None = None  # a driver's
        self.on_node_gone: Callable[[], None] | None = None  # a driver's; what was lost is known by then. Lock held
        self.printer = Printer()
        self.obituaries = Obituaries()  # a driver's
        if role == "driver":
            self.handlers[LogLines] = lambda sender, message: self.printer.add(message)
            self.on_quiet = self.printer.show
            self.handlers[NodeGone] = self._on_node_gone
            self.handlers[NodeSaid] = lambda sender, message: self.obituaries.said(message.node, message.lines)
            self.handlers[EndSession] = self._on_end_session
        self.handlers |= {
            Answer: self._on_answer,
            ObjectAllocated: self._on_reply,
            ObjectRefused: self._on_reply,
            ObjectPinned: self._on_reply,
            ObjectGone: self._on_reply,
            ProcessGone: self._on_process_gone,
            Inspect: self._on_inspect,
        }

    def enter_group(self, group: tuple[GroupId, bool]) -> None:
        """What runs here from now on works in this placement group."""
        if group != self.group:
            self.group = group
            self.place = object() if group[1] else self._outside

    def _note_unhandled(self, entry: Entry) -> None:
        if self.owner.ended is None:
            self.unhandled.note(entry)

    def close(self, why: str = "sparkray.shutdown() was called") -> None:
        super().close(why)
        self.printer.show()

    def _become_current(self) -> None:
        object_ref.dropped.clear()
        object_ref.dropped_streams.clear()
        object_ref.current = self
        if self.role == "driver" and not self.serial:
            self._rooms = Rooms(self)
        forked.has_own_session()

    def _on_alarm(self) -> None:
        rooms = self._rooms
        if rooms is not None and rooms.due is not None:
            rooms.rest(now())

    def _give_up_asking(self) -> None:
        for reply in self._replies.values():
            reply.finish()

    # ------------------------------------------------------------------ asking
    def _on_reply(self, sender: ProcessId, message: Any) -> None:
        reply = self._replies.get((type(message) in (ObjectPinned, ObjectGone), message.object))
        if reply is not None:
            reply.messages.append(message)
            reply.entry_ready(None)

    def _on_answer(self, sender: ProcessId, message: Answer) -> None:
        reply = self._replies.get(message.request)
        if reply is not None:
            reply.messages.append(message)
            reply.entry_ready(None)

    def ask(self, to: ProcessId, what: str) -> Any:
        """A question to the raylet or the head, and its answer."""
        self._let_go_of_rooms()  # it may be about the store, and nothing else uses what we hold ahead
        return self.request(to, lambda number: Ask(number, what))

    def request(self, to: ProcessId, message: Callable[[int], Message]) -> Any:
        """Send the message with a number of its own, and wait for the `Answer` with the same one."""
        number = next(self.counter)
        return self._call(number, to, message(number)).value

    def begin_request(self, to: ProcessId, message: Callable[[int], Message]) -> tuple[int, _Reply]:
        """Send the message with a number of its own, and go on. Its answer is what `end_request` waits for."""
        number = next(self.counter)
        reply = _Reply(1)
        with self.lock:
            self._check_open()
            self._replies[number] = reply
            self._asked.setdefault(to, []).append(reply)
            reply.asked = to
            self._send(to, message(number))
        return number, reply

    def end_request(self, request: tuple[int, _Reply], deadline: float) -> tuple[bool, Answer | None]:
        """Whether it is settled by the deadline (monotonic seconds), and the answer; None if the asked one is gone."""
        number, reply = request
        self.pump.lead(reply, deadline)
        with self.lock:
            self._replies.pop(number, None)
            waiting = self._asked.get(reply.asked, [])
            if reply in waiting:
                waiting.remove(reply)
                if not waiting:
                    del self._asked[reply.asked]
        return reply.missing <= 0, reply.messages[0] if reply.messages else None

    def _on_node_gone(self, sender: ProcessId, message: NodeGone) -> None:
        self.obituaries.gone(message.node, message.why)  # first: what fails now may be raised at once
        self._perform(self.owner.handle(sender, message, now()))
        if self.on_node_gone is not None:
            self.on_node_gone()

    def _on_end_session(self, sender: ProcessId, message: EndSession) -> None:
        self.obituaries.session_ended(message.why)
        self._perform(self.owner.handle(sender, message, now()))

    def explain_node(self, node: NodeId, sentence: str) -> None:
        """More of the end of a node: for errors that are raised from now on, and for `nodes()`."""
        self.obituaries.explain(node, sentence)
        with self.lock:
            if self.owner.ended is None:
                self._send(HEAD, ExplainNode(node, sentence))

    def _on_process_gone(self, sender: ProcessId, message: ProcessGone) -> None:
        """The owner's, and nobody waits for its answers any more."""
        for reply in self._asked.pop(message.process, ()):
            reply.finish()
        self._perform(self.owner.handle(sender, message, now()))

    def _on_inspect(self, sender: ProcessId, message: Inspect) -> None:
        from sparkray_core.run import inspection  # only where somebody looks

        if self._rooms is not None:
            self._rooms.seal()
        self._send(sender, Answer(message.request, inspection.answer(self, message.what, message.detail)))

    def _call(self, key: Any, to: ProcessId, message: Message, limit: float | None = None) -> Any:
        limit = limit or self.settings.reply_limit_s
        with self.lock:
            self._check_open()
            self._kick_if_any()  # what was let go before may be the very room that is asked for
            reply = self._replies.get(key)
            if reply is None:
                reply = self._replies[key] = _Reply(1)
                self._send(to, message)
            else:  # another thread asks for the same: both get an answer of their own
                reply.missing += 1
                self._send(to, message)
            reply.users += 1
        self.pump.lead(reply, now() + limit)
        with self.lock:
            reply.users -= 1
            if not reply.users:
                del self._replies[key]
            if reply.messages:
                return reply.messages.pop()
            self._check_open()
        raise errors.RaySystemError(f"{to.hex()} did not answer {type(message).__name__} within {limit:g} s")

    def _check_open(self) -> None:
        if self.owner.ended is not None:
            raise errors.RaySystemError(self.obituaries.completed(f"the sparkray session ended: {self.owner.ended}"))

    # ------------------------------------------------------------------ waiting
    def get(self, entries: Sequence[Entry], timeout: float | None) -> list[Any]:
        """The values, in order.

        Raises:
            GetTimeoutError: not all were there in time (seconds).
            RayError: the first failure that shows, without waiting for the rest.
        """
        self.refuse_foreign(entries)
        began = now() if timeout is not None else 0.0
        try:
            missing = [entry for entry in entries if entry.value is None]
            if missing:
                failed = None
                if len(missing) < len(entries):  # a failure that is there already counts, too
                    failed = next((entry for entry in entries if _entry_failed(entry)), None)
                if failed is not None:
                    self.load(failed)
                self._get_missing(missing, len(entries), timeout)
            deadline = None if timeout is None or timeout < 0 else began + timeout
            return [self.load(entry, deadline) for entry in entries]
        except errors.GetTimeoutError:
            raise
        except errors.RayError:
            for entry in entries:  # whoever asked for all of them was told of a failure; the others are no surprise
                entry.seen = True
            raise

    def get_one(self, entry: Entry, timeout: float | None) -> Any:
        """`get` of one: the loop of calls one by one lives here."""
        if entry.owner is not self.me:
            self.refuse_foreign([entry])
        if timeout is not None and timeout >= 0:
            deadline = now() + timeout
            if entry.value is None:
                self._get_missing([entry], 1, timeout)
            return self.load(entry, deadline)
        if entry.value is None:
            self._get_missing([entry], 1, timeout)
        return self.load(entry)

    def refuse_foreign(self, entries: Iterable[Entry]) -> None:
        """
        Raises:
            UnknownOwnerError: one is of an earlier session of this process.
        """
        knows, me = self.owner.refs.knows, self.me
        for entry in entries:
            if entry.owner is not me and not knows(entry):
                raise object_ref.of_past_session(f"ObjectRef({getattr(entry, 'end', entry).id.hex()})")

    def _get_missing(self, missing: list[Entry], of: int, timeout: float | None) -> None:
        deadline = None if timeout is None or timeout < 0 else now() + timeout
        getter = Getter(0, _entry_failed)
        self._wait(getter, missing, len(missing), deadline)
        if getter.failed is not None:
            self.load(getter.failed)
        late = [entry for entry in missing if entry.value is None]
        if late:
            raise errors.GetTimeoutError(
                f"{len(late)} of {of} values were not there after {timeout:g} s (first: {late[0].id.hex()}); "
                f"the tasks run on and the references stay usable"
            )

    def wait(self, entries: Sequence[Entry], wanted: int, timeout: float | None) -> None:
        """Return once `wanted` of the entries are there, or after `timeout` seconds."""
        missing = [entry for entry in entries if entry.value is None]
        self.refuse_foreign(missing)
        wanted -= len(entries) - len(missing)
        if wanted > 0:
            self._wait(Getter(0), missing, wanted, None if timeout is None else now() + timeout)

    def _wait(self, getter: Getter, entries: list[Entry], wanted: int, deadline: float | None) -> None:
        """Put the getter on the entries, and lead or follow until `wanted` of them came."""
        with self.lock:
            self._kick()
            waiting = [entry for entry in entries if entry.value is None]
            getter.missing += wanted - (len(entries) - len(waiting))
            for entry in waiting:
                if entry.waiters is None:
                    entry.waiters = [getter]
                else:
                    entry.waiters.append(getter)
            if self.owner.ended is None:  # which may tell the getter that something is lost
                self._perform(self.owner.want(waiting, now()))
            if len(waiting) < len(entries) and getter.fail_fast is not None:  # some came since the caller looked
                getter.failed = getter.failed or next(filter(getter.fail_fast, entries), None)
            if self.owner.ended is not None or getter.failed is not None:
                getter.finish()
            whole = deadline is None and getter.missing == len(waiting)
        if getter.missing <= 0:
            self._unwait(getter, waiting)
            return
        unblock = None
        if self.on_block is not None:
            unblock = self.on_block(getter, waiting) if whole else self.on_block(None, None)
        begin = clock()
        try:
            self.pump.lead(getter, deadline)
            while getter.is_paused and self.on_pause is not None:
                self.on_pause()
                self.pump.lead(getter, deadline)
        finally:
            self.records.spans.append(("get", begin, clock(), ""))
            self._unwait(getter, waiting)
            if unblock is not None:
                unblock()
        if getter.missing > 0 or self.owner.ended is not None:
            with self.lock:
                if self.owner.ended is not None and any(entry.value is None for entry in entries):
                    self._check_open()

    def remember_rest(self, rest: list[Any]) -> None:
        """Of a `wait`. The side thread's next turn forgets it; where an event loop has its place, nobody would."""
        if not self.serial and not self.pump.embedded:
            self.rest = rest
            if self.pump.asleep:
                self.pump.wake()

    def _unwait(self, getter: Getter, entries: list[Entry]) -> None:
        if all(entry.value is not None for entry in entries):
            return
        with self.lock:
            for entry in entries:
                if entry.waiters and entry.value is None:
                    with contextlib.suppress(ValueError):
                        entry.waiters.remove(getter)

    def take(self, stream: Stream) -> Entry | None:
        """The next item of a stream, if it is there."""
        with self.lock:
            entry, effects = self.owner.take(stream)
            if effects:
                self._perform(effects)
        return entry

    def look(self) -> None:
        """Hand in what waits, and take in what has arrived, without waiting."""
        self.kick()
        self.pump.poll_once()

    def notify(self, entry: Entry, callback: Callable[[], object]) -> None:
        """Call back once the entry is there: in whatever thread brings it, with the lock held; now, if it is there."""
        with self.lock:
            self._kick()
            self._perform(self.owner.want([entry], now()))
            if entry.value is None and self.owner.ended is None:
                entry.waiters = [*(entry.waiters or ()), _Notice(callback)]
                if self.pump.asleep:
                    self.pump.wake()
                return
        callback()

    def future(self, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def deliver() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                value = self.load(ref._entry)
            except BaseException as error:  # noqa: BLE001 - whatever the task raised belongs to the future
                future.set_exception(error)
            else:
                future.set_result(value)

        # In a thread of its own: loading the value and the future's callbacks run user code.
        self.notify(ref._entry, lambda: threading.Thread(target=deliver, daemon=True).start())
        return future

    # ------------------------------------------------------------------ values
    def load(self, entry: Entry, deadline: float | None = None) -> Any:
        """The value of an entry that is there. Raises what it holds, if that is a failure.

        Args:
            deadline: if it turns out to be lost, how long to wait for it to be made again (monotonic seconds).
        """
        try:
            value = entry.value
            if type(value) is bytes:
                return values.from_inline(value)
            return self._load(entry, deadline)
        except errors.RayError:  # what the task raised is one, too
            raise
        except Exception as error:  # user code: the constructors and modules that the value names
            raise errors.RaySystemError(f"the value of {entry.id.hex()} cannot be unpickled here: {error!r}") from error

    def _load(self, entry: Entry, deadline: float | None) -> Any:
        value = entry.value
        while value is None:  # it was there, and got lost since the caller looked
            self._wait_again(entry, deadline)
            value = entry.value
        value = bare(value)
        if type(value) is bytes:
            return values.from_inline(value)
        if value[0] == STORED:
            return self.read(entry.id, list(place(value)[1]), held=True, entry=entry, deadline=deadline)
        return self._value_or_failure(entry, value, None)

    def _value_or_failure(self, entry: Entry, value: Value, on_ref: Callable[[Any], None] | None) -> Any:
        """Of a value that is not in a store."""
        kind = value[0] if type(value) is tuple else None
        if kind in (FAILED, ERROR, DEPENDENT):
            entry.seen = True
            raise error_of(self.obituaries.completed_failure(value))
        return values.from_inline(value, on_ref)

    def put(self, value: object, replicas: int = 1) -> ObjectRef[Any]:
        """An immutable snapshot of the value, as an object that this process owns; of a worker's, its raylet."""
        if self._unmapped is not None:
            self._map_if_of_use()
        if replicas > 1 and not self.serial:
            return self._put_replicated(values.serialize(value), replicas)
        return self.put_serialized(values.serialize(value))

    def _put_replicated(self, serialized: values.Serialized, replicas: int) -> ObjectRef[Any]:
        """In the store, however small it is: other nodes copy it from there."""
        nodes = sum(1 for node in self.ask(self.raylet_id, "nodes") if node["alive"] and not node["visits"])
        if nodes < replicas and not self._warned_of_replicas:
            self._warned_of_replicas = True
            warnings.warn(
                f"put(replicas={replicas}) has {nodes} nodes for its copies; the others are made when nodes join",
                RuntimeWarning,
                stacklevel=4,
            )
        entry = self.owner.put_entry(next(self.counter))
        size = values.segment_size(serialized)
        with (room := self.room(entry.id, size)) as view:
            self.write(view, room.offset, serialized)
        with self.lock:
            self._perform(self.owner.put(entry, (STORED, size, (self.node,)), [ref._entry for ref in serialized.refs]))
            self._send(self.raylet_id, ReplicateObject(entry.id, replicas))
        return ObjectRef(entry)

    def put_serialized(self, serialized: values.Serialized) -> ObjectRef[Any]:
        if serialized.size > self.inline_bytes and self._rooms is not None and not serialized.refs:
            ref = self._rooms.put(serialized)
            if ref is not None:
                return ref
        entry = self.owner.put_entry(next(self.counter))
        if serialized.size <= self.inline_bytes and not serialized.refs:
            entry.value = values.to_inline(serialized)
            return ObjectRef(entry)
        stored = self.store(entry.id, serialized)
        inner = [ref._entry for ref in serialized.refs]
        with self.lock:
            self._perform(self.owner.put(entry, stored, inner))
        return ObjectRef(entry)

    def store(self, some_object: ObjectId, serialized: values.Serialized) -> Value:
        """The value as it travels: inline if small, else written to this node's segment."""
        if serialized.size <= self.inline_bytes:
            return values.to_inline(serialized)
        size = values.segment_size(serialized)
        begin = clock()
        room = self.room(some_object, size)
        with room as view:
            self.write(view, room.offset, serialized)
        self.records.span("put", begin, f"{size} bytes")
        return (STORED, size, (self.node,))

    def write(self, view: memoryview, start: int, serialized: values.Serialized) -> None:
        """Into this process's own block of the segment, which starts there."""
        if len(view) < values.COPY_WITHOUT_GIL:
            values.write_to(view, serialized)
        else:
            self._write_large(view, start, serialized)

    def _write_large(self, view: memoryview, start: int, serialized: values.Serialized) -> None:
        copier = self.copier or self._make_copier()
        if serialized.stream is not None and copier.prefers_file(start, len(view)):
            values.write_to_file(self.segment.fileno(), start, serialized)
        elif serialized.stream is not None:
            copier.map_in_threads(start, len(view))
            values.write_to(view, serialized)
        else:
            values.write_to(view, serialized, lambda parts: copier.copy([(start + at, part) for at, part in parts]))

    def _make_copier(self) -> Copier:
        from sparkray_core.store.copying import Copier  # here, so that a process without large values needs no numpy

        copier = Copier(self.segment)
        with self.lock:
            if self.copier is None and not self._closed:
                self.copier = copier
                return copier
        copier.close()  # another thread was first; or it is still of use to who has begun
        return self.copier or copier

    def map_ahead(self) -> None:
        """The node has just been started, for this driver: have the start of its store mapped here, in the background.

        Not before numpy is there: a driver without it has no large values.
        """
        size = warm_bytes(self.settings.object_store_warm_bytes, self.segment.size)
        self.mapping = self._unmapped = MapAhead(self.segment, size, self._make_copier)
        self._map_if_of_use()

    def _map_if_of_use(self) -> None:
        if "numpy" in sys.modules:
            unmapped, self._unmapped = self._unmapped, None
            if unmapped is not None:
                unmapped.start()

    def room(self, some_object: ObjectId, size: int) -> _Room:
        """Space in the segment to write one object to; sealed when the `with` block ends."""
        offset = self.allocate(some_object, size)
        return _Room(self, some_object, offset, self.segment.write_view(offset, size))

    def allocate(self, some_object: ObjectId, size: int) -> int:
        """Where in the segment so many bytes are this process's, until it seals them as this object."""
        self._let_go_of_rooms()  # it may be the very room that is asked for
        answer = self._call((False, some_object), self.raylet_id, AllocateObject(some_object, size), ROOM_LIMIT_S)
        if isinstance(answer, ObjectRefused):
            raise errors.by_name(answer.error, answer.why)
        return int(answer.offset)

    def _let_go_of_rooms(self) -> None:
        if self._rooms is not None:
            with self.lock:
                self._rooms.let_go()

    def read(
        self,
        some_object: ObjectId,
        nodes: list[Any],
        on_ref: Callable[[Any], None] | None = None,
        held: bool = False,
        entry: Entry | None = None,
        deadline: float | None = None,
    ) -> Any:
        """A stored value, read in place. Its memory stays pinned until the last view of it died.

        Args:
            on_ref: called with each reference that comes to life in it.
            held: by a reference of this process; it may be read again soon.
            entry: it, if this process has it as one.
            deadline: when to give up waiting for it to be made again, if it is lost; monotonic seconds.

        Raises:
            ObjectLostError: it is lost, and cannot be made again.
        """
        ref = None
        while True:
            try:
                view = self.pin(some_object, nodes, held)
                break
            except _NotFound as lost:
                if entry is None:  # an argument; what its owner says of it is to be remembered until we have it
                    ref = self.ref_of(some_object)
                    entry = ref._entry
                value = self._find_again(entry, nodes, deadline, lost)
            if type(value) is bytes or value[0] != STORED:  # it was made again, and is small this time
                return values.from_inline(value, on_ref)
            nodes = list(place(value)[1])
        del ref
        kind, parts = values.read_from(view)
        value = values.deserialize(kind, parts, on_ref)
        if kind == ERROR:
            raise value.as_instanceof_cause() if isinstance(value, errors.RayTaskError) else value
        return value

    def _find_again(self, entry: Entry, nodes: list[Any], deadline: float | None, lost: _NotFound) -> Value:
        """What the owner says of an object that none of these nodes has: its value, which may lie elsewhere now."""
        with self.lock:
            self._check_open()
            failure, effects = self.owner.missed(entry, nodes, now())
            self._perform(effects)
        if failure is not None:
            raise error_of(self.obituaries.completed_failure(failure)) from lost
        while entry.value is None:
            self._wait_again(entry, deadline)
        value = bare(entry.value)
        if type(value) is tuple and value[0] in (FAILED, ERROR):
            self._value_or_failure(entry, value, None)
        return value

    def _wait_again(self, entry: Entry, deadline: float | None) -> None:
        self._wait(Getter(0), [entry], 1, deadline)
        with self.lock:
            self._check_open()
        if entry.value is None and deadline is not None and now() >= deadline:
            raise errors.GetTimeoutError(
                f"{entry.id.hex()} was lost, and is being made again; it was not there in time. The reference stays "
                f"usable"
            )

    def pin(self, some_object: ObjectId, nodes: list[Any], held: bool = False) -> memoryview:
        with self.lock:
            self._check_open()
            if self._rooms is not None and self.owner.refs.unsealed is not None:
                self._rooms.seal()
            pin = self.pins.again(some_object)
        if pin is None:
            answer = self._call((True, some_object), self.raylet_id, PinObject(some_object, nodes), ROOM_LIMIT_S)
            if isinstance(answer, ObjectGone):
                if answer.error == "ObjectLostError":
                    raise _NotFound(answer.why)
                raise errors.unreadable(some_object.hex(), answer.error, answer.why)
            with self.lock:
                pin, doubled = self.pins.add(some_object, answer.offset, answer.size, answer.file, held)
                if doubled:
                    self._send(self.raylet_id, UnpinObjects([some_object]))
        unpins, pump, known = self._unpins, self.pump, pin

        def release() -> None:
            unpins.append(some_object)
            if pump.asleep and not known.rests:
                pump.wake()

        if pin.file:
            return pinned_file_view(spill_path(self.folder, pin.file), pin.offset, pin.size, release)
        return self.segment.pinned_view(pin.offset, pin.size, release)

    # ------------------------------------------------------------------ references
    def export(self, ref: ObjectRef[Any]) -> None:
        """The ref's id is about to be seen outside."""
        with self.lock:
            entry, refs = ref._entry, self.owner.refs
            refs.export(entry)
            remember(ref)
            if entry.owner == refs.keeper:
                effects: list[Effect] = []
                refs.flush(effects)
                self._perform(effects)

    def keep_pickled(self, ref: ObjectRef[Any]) -> None:
        """The user's own pickle has it inside. Nobody can know how long that is kept, so the value is kept for good.

        Raises:
            OufOfBandObjectRefSerializationException: the settings forbid it.
        """
        if not self.settings.allow_out_of_band_object_ref_serialization:
            raise errors.OufOfBandObjectRefSerializationException(
                f"{ref} was pickled outside of arguments, results and put(). Its value would have to be kept for as "
                f"long as this process lives; the setting allow_out_of_band_object_ref_serialization forbids it."
            )
        self.pickled_refs.add(ref)

    def ref_of(self, some_object: ObjectId) -> ObjectRef[Any]:
        """The one ObjectRef of this process for an id that came in."""
        with self.lock:
            entry = self.owner.refs.find(some_object)
            known = entry.weak() if entry.weak is not None else None
            if known is not None:
                return known  # type: ignore[no-any-return]
            ref: ObjectRef[Any] = ObjectRef(entry)
            entry.held = True
            remember(ref)
            return ref

    def deliver(self, count: int, name: str, values: Sequence[Value], maker: Maker | None) -> list[ObjectRef[Any]]:
        """Refs to objects that somebody has written to stores on our behalf, under the ids of this number.

        Args:
            name: what made them, for errors.
            maker: makes them again, should one get lost; None: nobody can.
        """
        entries = [Entry(self.me, count, index) for index in range(len(values))]
        with self.lock:
            self._perform(self.owner.deliver(Delivery(count, name, entries, maker), values))
        return [ObjectRef(entry) for entry in entries]

    def made_again(self, count: int, made: list[Value] | tuple[str, str], nodes: Iterable[NodeId]) -> None:
        """A maker's answer: see `Deliveries.made_again`."""
        with self.lock:
            if not self._closed:
                self._perform(self.owner.made_again(count, made, nodes, now()))

    def cancel(self, entry: Entry, force: bool, recursive: bool) -> None:
        self.refuse_foreign([entry])
        with self.lock:
            self._kick()
            if entry.owner != self.me:
                self._perform(self.owner.cancel_elsewhere(entry, force, recursive))
                return
            task = self.owner.book.tasks.get(entry.count)
            if task is None:
                return
            if force and task.actor is not None:
                raise ValueError("force=True is not supported for actor calls: use kill() to end the actor")
            self._perform(self.owner.cancel(entry.count, force, recursive, now()))

    def kill_actor(self, actor: Actor, restart: bool) -> None:
        with self.lock:
            self._kick()
            self._perform(self.owner.kill(actor, restart, now()))


class _NotFound(Exception):
    """None of the nodes that were named has the object. What the owner says of that is what counts."""


class _Reply(Getter):
    __slots__ = ("asked", "messages", "users")

    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.asked = ProcessId(b"")
        self.messages: list[Any] = []
        self.users = 0


class _Room:
    """An allocated, not yet sealed object."""

    __slots__ = ("_core", "_object", "_view", "offset")

    def __init__(self, core: Core, some_object: ObjectId, offset: int, view: memoryview) -> None:
        self._core = core
        self.offset = offset
        self._object = some_object
        self._view = view

    def __enter__(self) -> memoryview:
        return self._view

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._view.release()
        self._core.send(self._core.raylet_id, SealObjects([self._object]))
        if kind is not None:  # not written to its end, and nobody will ever refer to it
            self._core.send(self._core.raylet_id, FreeObjects([self._object]))


class _Notice:
    """A waiter that only calls back."""

    __slots__ = ("_callback", "missing")

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self.missing = 1

    def entry_ready(self, entry: Entry) -> None:
        self._callback()


def _entry_failed(entry: Entry) -> bool:
    return entry.value is not None and is_failure(entry.value)
