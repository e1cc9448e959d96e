"""Everything that sparkray raises.

RayError
  RayTaskError               the task's own code raised; also an instance of the class it raised
  UnserializableException    its exception cannot be unpickled here
  TaskCancelledError
  WorkerCrashedError         the process that ran the task died
  RayActorError              a call to an actor failed for the actor's sake
    ActorDiedError           it is dead and stays dead
    ActorUnavailableError    it is restarting; the call may or may not have run
  PendingCallsLimitExceeded  as many calls wait for the actor as its max_pending_calls allows
  ActorAlreadyExistsError    also a ValueError
  ActorHandleNotFoundError   the handle is of a session that has ended; also a ValueError
  UnknownOwnerError          so is the reference; also a ValueError
  OutOfMemoryError           the task's or actor's worker was ended because memory ran out
  GetTimeoutError            also a TimeoutError
  ObjectLostError            the object is gone from every node that had it
    OwnerDiedError           the process that answered for the object died
    ObjectReconstructionFailedError  a task had made it, and cannot or may not run again
  ObjectStoreFullError       no room in shared memory
  OutOfDiskError             none, and none on the disk that objects are spilled to
  NodeDiedError
  TaskUnschedulableError     no node could ever run it
  ActorUnschedulableError
  OufOfBandObjectRefSerializationException  a reference was pickled by hand, which the settings forbid
  TaskPlacementGroupRemoved  the placement group that it was to run in is gone
  ActorPlacementGroupRemoved
  RuntimeEnvSetupError       a worker with the runtime_env that was asked for cannot be made
  PlacementGroupExistsError  the name of a placement group is taken; also a ValueError
  AuthenticationError        the session's key is missing or was refused; also a ConnectionError
  RaySystemError             sparkray itself failed, or its session ended under you
"""

from __future__ import annotations

import builtins
import contextlib
import pickle
from collections.abc import Sequence
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any


class RayError(Exception):
    """Any error that comes from sparkray and not from the caller's own arguments."""


class RayTaskError(RayError):
    """The task raised. `cause` is what it raised; what `get` raises is an instance of both classes."""

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        """The last two: of an actor's method."""
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.proctitle = proctitle or f"ray::{function_name}"
        self.pid = pid or 0
        self.ip = ip or ""
        self.actor_repr = actor_repr or ""
        self.actor_id = actor_id or ""
        super().__init__(*self._facts())

    def __str__(self) -> str:
        whose = f", actor_id={self.actor_id}, repr={self.actor_repr}" if self.actor_id else ""
        return f"{self.proctitle}() (pid={self.pid}, ip={self.ip}{whose})\n{self.traceback_str}"

    def _facts(self) -> tuple[Any, ...]:
        return (
            self.function_name,
            self.traceback_str,
            self.cause,
            self.proctitle,
            self.pid,
            self.ip,
            self.actor_repr,
            self.actor_id,
        )

    def as_instanceof_cause(self) -> RayTaskError:
        """This error as an instance of its cause's class too, so that `except ValueError` catches it.

        A cause whose class cannot be a second base (or is no `Exception`) leaves the plain `RayTaskError`.
        """
        cause_class = type(self.cause)
        if not issubclass(cause_class, Exception) or issubclass(RayTaskError, cause_class):
            return self
        if issubclass(cause_class, RayTaskError):
            return self
        error = _new_dual(cause_class, self.cause)
        if error is None:
            return self
        _copy_members(self.cause, error)
        error.__dict__.update(self.__dict__)
        error.args = (self.cause,)
        error.__cause__ = None
        return error  # type: ignore[no-any-return]


def of_argument(error: BaseException, names: Sequence[str]) -> RayTaskError:
    """The error of a task that could not run because an argument's task had failed, or could not run for that."""
    if not isinstance(error, RayTaskError):
        error = RayTaskError(names[-1], f"{type(error).__name__}: {error}", error)
    told = f"{_class_name(error)}: {error}"
    for name in reversed(names[1:]):
        told = f"RayTaskError: ray::{name}()\n{_NOT_COMPUTED}\n{told}"
    return RayTaskError(names[0], f"{_NOT_COMPUTED}\n{told}", error.cause, pid=error.pid, ip=error.ip)


def _class_name(error: RayTaskError) -> str:
    return f"RayTaskError({type(error.cause).__name__})"


_NOT_COMPUTED = "  At least one of the input arguments for this task could not be computed:"


def _new_dual(cause_class: type[BaseException], cause: BaseException) -> Any:
    """An object of both classes, on which no `__init__` was called; None where that cannot be made."""
    try:
        dual = type(f"RayTaskError({cause_class.__name__})", (_Dual, cause_class), {"__module__": __name__})
    except Exception:  # noqa: BLE001 - the user's metaclass or __init_subclass__; then it is no second base
        return None
    # As Ray makes it; then as its class wants it made (an ExceptionGroup); then past a __new__ that wants more.
    for make, arguments in ((dual.__new__, (cause,)), (dual.__new__, cause.args), (Exception.__new__, ())):
        try:
            return make(dual, *arguments)
        except Exception:  # noqa: BLE001, PERF203 - the user's __new__
            continue
    return None


def _copy_members(cause: BaseException, error: BaseException) -> None:
    """What the cause keeps outside of its `__dict__`: `errno` and `filename`, `start` and `end`, `__slots__`."""
    for cls in type(cause).__mro__:
        if cls is BaseException:
            return
        for name, member in vars(cls).items():
            if isinstance(member, MemberDescriptorType | GetSetDescriptorType) and not name.startswith("__"):
                with contextlib.suppress(AttributeError, TypeError, ValueError):  # not set, or not to be set
                    setattr(error, name, getattr(cause, name))


class Carried:
    """A cause on its way: it is unpickled apart from the error that it is in, which survives if that fails."""

    __slots__ = ("_blob", "_text")

    def __init__(self, blob: bytes, text: str) -> None:
        """`text` stands in for it where its class cannot be had."""
        self._blob, self._text = blob, text

    def __reduce__(self) -> Any:
        return _unpack_cause, (self._blob, self._text)


def _unpack_cause(blob: bytes, text: str) -> BaseException:
    try:
        cause: BaseException = pickle.loads(blob)
    except Exception as why:  # noqa: BLE001 - the user's class, or the lack of it, decides what is raised
        return UnserializableException(f"what the task raised cannot be unpickled here ({why!r}). It was\n{text}")
    return cause


class _Dual(RayTaskError):
    def __init__(self, *args: Any) -> None:  # never called by us: `as_instanceof_cause` fills the object in
        Exception.__init__(self, *args)

    def __getattr__(self, name: str) -> Any:
        cause = self.__dict__.get("cause")
        if cause is None:
            raise AttributeError(name)
        return getattr(cause, name)

    def __reduce__(self) -> Any:
        return _rebuild_dual, self._facts()


def _rebuild_dual(*facts: Any) -> RayTaskError:
    return RayTaskError(*facts).as_instanceof_cause()


class UnserializableException(RayError):
    """What a task raised cannot be unpickled by whoever asks for its value; the text has the original traceback."""

    def __init__(self, original_stack_trace: str = "") -> None:
        super().__init__(original_stack_trace)


class TaskCancelledError(RayError):
    """The task was cancelled before it returned."""

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        super().__init__(task_id, error_message)
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        whose = "This task or its dependency" if self.task_id is None else f"Task: {self.task_id}"
        return self.error_message or f"{whose} was cancelled."


class WorkerCrashedError(RayError):
    """The worker process died while it ran the task, and the task had no attempt left."""


class RayActorError(RayError):
    """The call failed because of the actor, not because of the method's code.

    Attributes:
        actor_id: in hex; None when it is not known.
        actor_init_failed: its constructor raised.
        preempted: its node was taken away on purpose. (Never, so far.)
    """

    actor_init_failed = False
    preempted = False

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = "The actor experienced an error before finishing this task.",
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        super().__init__(actor_id, error_msg, actor_init_failed, preempted)
        self.actor_id = actor_id
        self.error_msg = error_msg
        self.actor_init_failed = actor_init_failed
        self.preempted = preempted

    def __str__(self) -> str:
        return self.error_msg

    def __reduce__(self) -> Any:
        return _rebuild_actor_error, (type(self), self.args, self.__dict__)


def _rebuild_actor_error(cls: type[RayActorError], args: tuple[Any, ...], facts: dict[str, Any]) -> RayActorError:
    """The subclasses take other arguments than they keep."""
    error = cls.__new__(cls, *args)
    error.__dict__.update(facts)
    return error


class ActorDiedError(RayActorError):
    """The actor is dead and will not come back; this call and all later ones fail."""

    def __init__(
        self, cause: RayTaskError | str | None = None, actor_id: str | None = None, actor_init_failed: bool = False
    ) -> None:
        """
        Args:
            cause: why it died, in words; or what its constructor raised.
        """
        if isinstance(cause, RayTaskError):
            told = f"The actor died because of an error raised in its creation task, {cause}"
            super().__init__(cause.actor_id or actor_id, told, True)
        else:
            super().__init__(
                actor_id, cause or "The actor died unexpectedly before finishing this task.", actor_init_failed
            )


class ActorUnavailableError(RayActorError):
    """The actor's process died and the actor is being restarted. The call may or may not have been executed."""

    def __init__(self, error_message: str = "", actor_id: str | None = None, actor_init_failed: bool = False) -> None:
        told = error_message or "The actor is temporarily unavailable: its process died, and it is being restarted."
        super().__init__(actor_id, told, actor_init_failed)


class PendingCallsLimitExceeded(RayError):
    """This process has as many calls under way to the actor as its `max_pending_calls` allows."""


class OutOfMemoryError(RayError):
    """The worker of the task or actor was ended because its node's memory ran out, and no retry was left. The text
    lists who used how much."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class ActorAlreadyExistsError(ValueError, RayError):
    """An actor of that name is alive in the namespace. (`get_if_exists=True` gives its handle instead.)"""


class ActorHandleNotFoundError(ValueError, RayError):
    """The handle is of a session that has ended. Its actor ended with it."""


class UnknownOwnerError(ValueError, RayError):
    """The reference is of a session that has ended: its owner is unknown here. Its value ended with the session."""


class GetTimeoutError(RayError, TimeoutError):
    """`get` waited as long as it was told to. The task runs on; the ref stays usable."""


class ObjectLostError(RayError):
    """No node has the object any more, and it cannot be made again.

    Attributes:
        object_ref_hex: its id; None when it is not known.
        owner_address, call_site: Ray's; nothing here fills them in.
    """

    def __init__(
        self,
        object_ref_hex: str | None = None,
        owner_address: Any = None,
        call_site: str = "",
        *,
        message: str | None = None,
    ) -> None:
        super().__init__(message or f"Failed to retrieve object {object_ref_hex}: {self._WHAT}.")
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site

    _WHAT = "all copies of it have been lost, and it cannot be made again"

    def __reduce__(self) -> Any:
        return _rebuild_lost, (type(self), str(self), self.__dict__)


def _rebuild_lost(cls: type[ObjectLostError], message: str, facts: dict[str, Any]) -> ObjectLostError:
    error = cls(message=message)
    error.__dict__.update(facts)
    return error


class OwnerDiedError(ObjectLostError):
    """The process that made the reference died, so nobody can say where its value is."""

    _WHAT = "the process that made the reference died"


class ObjectReconstructionFailedError(ObjectLostError):
    """No node has the object any more. A task, or Spark, had made it, and cannot or may not run again.

    Attributes:
        reason: "MAX_ATTEMPTS_EXCEEDED" (its retries are used up), "RETRIES_DISABLED" (it had none), "LINEAGE_EVICTED"
            (beyond the setting lineage_bytes), "TASK_CANCELLED", "ACTOR_GONE" (ended with its last handle),
            "RUN_FAILED" (a generator yielded fewer items this time), "MAKER_FAILED" (a block from Spark: the text says
            why its partition could not be run again), or "NO_MAKER" (nobody could run it again).
    """

    def __init__(
        self,
        object_ref_hex: str | None = None,
        reason: Any = None,
        reason_message: str | None = None,
        owner_address: Any = None,
        call_site: str = "",
        *,
        message: str | None = None,
    ) -> None:
        if message is None and reason_message:
            message = f"Failed to retrieve object {object_ref_hex}: {reason_message}"
        super().__init__(object_ref_hex, owner_address, call_site, message=message)
        self.reason = reason
        self.reason_message = reason_message or str(self)


class ObjectStoreFullError(RayError, MemoryError):
    """The node's shared memory has no room for the object."""


class OutOfDiskError(RayError):
    """The node's shared memory has no room for the object, and the disk has none for those that could make some."""


class NodeDiedError(RayError):
    """The node on which this happened is gone."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class TaskUnschedulableError(RayError):
    """No node of the cluster has, in all, what the task asks for."""

    def __init__(self, error_message: str = "") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class ActorUnschedulableError(RayError):
    """No node of the cluster has, in all, what the actor asks for."""

    def __init__(self, error_message: str = "") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class OufOfBandObjectRefSerializationException(RayError):
    """A reference was pickled by hand, and the settings forbid that. (The name is Ray's, letter by letter.)"""


class TaskPlacementGroupRemoved(RayError):
    """The placement group that the task was to run in was removed before the task could."""


class ActorPlacementGroupRemoved(RayError):
    """The placement group that the actor was to live in was removed first. (One that lived there is dead:
    `ActorDiedError`.)"""


class RuntimeEnvSetupError(RayError):
    """A worker could not take on the runtime_env of the task or actor; the text says what failed."""

    def __init__(self, error_message: str | None = None) -> None:
        super().__init__(error_message or "Failed to set up runtime environment.")
        self.error_message = error_message


class AuthenticationError(RayError, ConnectionError):
    """Without the session's key nobody gets in: it is not known here, is no key, or was refused."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class RaySystemError(RayError):
    """sparkray failed, or the session ended while something still waited for it."""

    client_exc: Any = ""
    traceback_str: str | None = None

    def __init__(self, client_exc: Any = "", traceback_str: str | None = None) -> None:
        super().__init__(*([client_exc] if traceback_str is None else [client_exc, traceback_str]))
        self.client_exc = client_exc
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        return f"{self.client_exc}\ntraceback: {self.traceback_str}" if self.traceback_str else super().__str__()


class PlacementGroupExistsError(ValueError, RaySystemError):
    """A placement group of that name is there in the namespace."""


def unreadable(some_object: str, error: str, why: str) -> RayError:
    """What the raylet says of an object (its id in hex) that it cannot give to a reader."""
    what = "is lost" if error == "ObjectLostError" else "cannot be read here"
    facts = (some_object,) if error == "ObjectLostError" else ()
    return by_name(error, f"object {some_object} {what}: {why}", *facts)


def by_name(name: str, sentence: str, *facts: Any) -> RayError:
    """The system error that the wire names; an unknown name (a newer peer's) is a plain `RaySystemError`.

    Args:
        facts: for errors of actors their `actor_id` and `actor_init_failed`; for those of objects `object_ref_hex` and,
            if a task could have made it again, why it did not; for a task that was cancelled while it ran its name, and
            the pid and host of its process.
    """
    found = globals().get(name)
    if isinstance(found, builtins.type) and issubclass(found, RayError):
        if issubclass(found, ObjectLostError):
            return found(*facts, message=sentence)
        if issubclass(found, TaskCancelledError):
            error = found(error_message=sentence)
            if not facts:  # it had not begun
                return error
            name, pid, host = facts
            return RayTaskError(name, f"{found.__name__}: {sentence}", error, pid=pid, ip=host).as_instanceof_cause()
        if found is RayActorError:
            return RayActorError(
                error_msg=sentence, **dict(zip(("actor_id", "actor_init_failed"), facts, strict=False))
            )
        return found(sentence, *facts) if issubclass(found, RayActorError) else found(sentence)
    return RaySystemError(f"{name}: {sentence}")
