"""`@remote` functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from sparkray.environments import environment
from sparkray.options import Options
from sparkray.placing import where
from sparkray.retrying import Retrying, RetryingGenerator
from sparkray.runtime_env import checked
from sparkray.session import core
from sparkray.signature import Signature
from sparkray.streaming import open_stream
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Function, Shape, Task
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.pack import name_function, pack, pack_function, pickle_function

P = ParamSpec("P")
R = TypeVar("R")  # what `remote` returns: of a plain function that returns T, ObjectRef[T]


class _Prepared:
    """A function made ready for one session: pickled, with its shape looked up."""

    __slots__ = ("captured", "core", "function", "place", "retries", "returns", "shape")

    def __init__(
        self, core: Core, function: Function, captured: list[Any], shape: Shape, returns: int, retries: int
    ) -> None:
        self.core = core
        self.place = core.place
        self.function = function
        # References in its closure. They live as long as it may be called, and until the calls made are answered.
        self.captured = captured
        self.shape = shape
        self.returns = returns
        self.retries = retries


class _Pickled:
    """The bytes of a function, made at its first call in a session, whatever options that and later calls have."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: tuple[Core, bytes, list[Any]] | None = None

    def get(self, here: Core, function: Callable[..., Any], name: str) -> tuple[bytes, list[Any]]:
        if self._made is None or self._made[0] is not here:
            self._made = (here, *pickle_function(here, function, name))
        return self._made[1:]


class RemoteFunction(Generic[P, R]):
    """A function that runs elsewhere: `f.remote(...)` returns a reference to its result at once."""

    def __init__(self, function: Callable[..., Any], options: Options, pickled: _Pickled | None = None) -> None:
        self._function = function
        self._options = options
        self._pickled = pickled or _Pickled()
        self._prepared: _Prepared | None = None
        self._returns = options.returns(function)
        self._signature = Signature(None)  # read when it is first called: a function that names itself comes unfinished
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"Remote functions cannot be called directly. Instead of running '{self.__name__}()', "
            f"try '{self.__name__}.remote()'."
        )

    @overload
    def options(self, *, num_returns: int | str, **given: Any) -> RemoteFunction[P, Any]: ...
    @overload
    def options(self, **given: Any) -> RemoteFunction[P, R]: ...
    def options(self, **given: Any) -> RemoteFunction[P, Any]:
        """The same function with other options.

        num_cpus, num_gpus, memory, resources, accelerator_type, num_returns, max_retries, retry_exceptions, priority,
        scheduling_strategy, label_selector, fallback_strategy, name, runtime_env, enable_task_events.
        """
        if "max_calls" in given:
            raise ValueError("max_calls belongs to the function: give it to @remote")
        return RemoteFunction(self._function, self._options.updated(given, "task"), self._pickled)

    # A reference may stand for any argument, which no ParamSpec can say: hence the second. The first is for editors.
    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def remote(self, *args: Any, **kwargs: Any) -> R: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a call.

        Returns:
            A reference to the result; with num_returns=n a list of n, with num_returns=0 None; of a generator an
            `ObjectRefGenerator`.

        Raises:
            TypeError: the arguments do not fit the signature, or one cannot be pickled.
        """
        here = core()
        prepared = self._prepared
        if prepared is None or prepared.place is not here.place:
            prepared = self._prepare(here)
        self._signature.check(args, kwargs)
        payload, refs, nested, _made = pack(here, args, kwargs)
        if prepared.captured:
            nested = [*(nested or ()), *(ref._entry for ref in prepared.captured)]
        count = next(here.counter)
        if prepared.returns == 1:
            entry = Entry(here.me, count)
            ref: ObjectRef[Any] = ObjectRef(entry)
            here.submit(
                Task(count, prepared.function, payload, refs, nested, (entry,), prepared.retries, prepared.shape)
            )
            return ref
        if prepared.returns < 0:
            return self._stream(prepared, count, payload, refs, nested)
        entries = [Entry(here.me, count, index) for index in range(prepared.returns)]
        made = [ObjectRef[Any](entry) for entry in entries]
        here.submit(Task(count, prepared.function, payload, refs, nested, entries, prepared.retries, prepared.shape))
        return made or None

    def _stream(self, prepared: _Prepared, count: int, payload: Any, refs: Any, nested: Any) -> Any:
        stream, made = open_stream(prepared.core, count, prepared.returns)
        task = Task(count, prepared.function, payload, refs, nested, [stream.end], prepared.retries, prepared.shape)
        task.stream = stream
        prepared.core.submit(task)
        return made

    def _prepare(self, here: Core) -> _Prepared:
        self._signature = Signature.of(self._function)
        options = self._options
        retries = here.settings.task_max_retries if options.max_retries is None else options.max_retries
        retried = options.retried()
        name = options.name or self.__name__
        if retried:
            retrying = RetryingGenerator if self._returns < 0 else Retrying
            function, captured = pack_function(here, retrying(self._function, retries, retried), name)
        else:
            blob, captured = self._pickled.get(here, self._function, self.__name__)
            function = name_function(blob, name)
        env = environment(here, checked(options.runtime_env))
        resources = options.task_resources()
        at = where(here, options, f"the task {name}", resources)
        with here.lock:
            worn_by = (function.id, calls) if (calls := options.calls_of_a_worker()) else None
            shape = here.owner.leasing.shape(resources, retries != 0, env, options.priority, worn_by, at)
        self._prepared = _Prepared(here, function, captured, shape, self._returns, retries)
        return self._prepared

    def __reduce__(self) -> Any:
        return RemoteFunction, (self._function, self._options)

    def __repr__(self) -> str:
        return f"<remote function {self.__name__}>"
