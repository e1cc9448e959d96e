"""What an owner keeps for its own tasks and for the workers it has on lease. Records only; `owner.py` decides.

a task:   waiting for arguments -> queued -> pushed to a worker -> answered
                                     ^            |
                                     +------------+  returned unbegun, or its worker died and a retry is left
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from sparkray_core.frozen import frozen
from sparkray_core.ids import ActorId, FunctionId, LeaseId, NodeId, ObjectId, ProcessId
from sparkray_core.messages import Resources, Value, Where
from sparkray_core.model.entries import Entry, bare, dependent, is_failure
from sparkray_core.model.limits import PULL_BYTES_S
from sparkray_core.model.methods import decode, encode
from sparkray_core.model.queue_leases import QueueLeases
from sparkray_core.model.streams import Stream
from sparkray_core.model.where import SPREAD
from sparkray_core.settings import Settings


@frozen
class OwnerLimits:
    """How the owner paces itself."""

    ahead_s: float = 0.005  # seconds of work pushed to a worker ahead: hides the round trip, keeps stealing rare
    patient_ahead_s: float = 0.4  # the same where nobody waits for single results
    hold_s: float = 0.1  # there a worker may hold results for so long, to send several together
    one_behind_s: float = 0.025  # and one task behind the running one, if tasks take at most so many seconds
    hand: float = 0.75  # of an even share of what is queued: so much a worker gets at once, and of the rest again
    even_out_s: float = 0.0005  # a task that takes less is not worth a message of its own at the end
    lull_s: float = 0.003  # answers may lie so long where nobody would miss them; see `Leasing.lull`
    most_ahead: int = 1000  # tasks; bounds what a crash makes suspect
    most_push_bytes: int = 1 << 20  # of payload in one message, so that a worker gets going
    most_requests: int = 64  # lease requests under way per kind of task
    first_requests: int = 8  # or twice as many as there are leases: what cannot be had only costs the raylet
    linger_s: float = 0.25  # an idle lease is kept this long: `get(f.remote())` in a loop then needs none
    stuck_after_s: float = 0.02  # a worker that answers nothing for so long gives back what is behind its first task
    oom_retries: int = Settings.task_oom_retries  # of a task that was ended to save memory; -1: without end
    lineage_bytes: int = Settings.lineage_bytes  # of records of how stored results were made
    pull_bytes_s: float = PULL_BYTES_S
    steal_after_s: float = 0.005  # how long one lease idles beside a loaded one before it is given half the load


@frozen
class Function:
    """A remote function or actor class as it travels: once to each worker."""

    id: FunctionId
    name: str
    blob: bytes


class Task:
    """One call of a remote function, or of an actor's method."""

    __slots__ = (
        "actor",
        "cancelled",
        "careful",
        "count",
        "function",
        "missing",
        "nested",
        "num_returns",
        "on_runnable",
        "payload",
        "refs",
        "retries",
        "returns",
        "shape",
        "solo",
        "stream",
    )

    def __init__(
        self,
        count: int,
        function: Function,
        payload: Value,
        refs: list[tuple[int | str, Entry]] | None,
        nested: list[Entry] | None,
        returns: Sequence[Entry],
        retries: int,
        shape: Shape | None,
        actor: Actor | None = None,
    ) -> None:
        self.count = count
        self.function = function
        self.payload = payload
        self.refs = refs  # arguments that are references: (position or keyword, entry)
        self.nested = nested  # references inside the arguments
        self.returns = tuple(returns)
        self.num_returns = len(returns)
        self.retries = retries  # left; -1 is without end
        self.shape = shape
        self.actor = actor
        self.missing = 0  # arguments not there yet
        self.cancelled = False  # whatever happens to it, it is not run again
        # Was in flight when a worker died. Answers before it leave before it begins: if its worker dies, too, the
        # oldest unanswered task is the one that ran.
        self.careful = False
        self.solo = False  # and was the oldest then: it runs with nobody behind it. Always careful, too
        self.on_runnable: Callable[[Task], None] | None = None
        self.stream: Stream | None = None  # its items, if it is a generator; its one return is then the stream's end

    def results(self) -> list[ObjectId]:
        """The ids of what it is to return. A worker that died may have stored some and not told us."""
        return [entry.id for entry in self.returns if entry.value is None]

    def trouble(self) -> Entry | None:
        """The first of its arguments that failed, or that got lost since it was there."""
        for _, entry in self.refs or ():
            value = entry.value
            if value is None or (type(value) is tuple and is_failure(value)):
                return entry
        return None

    def failed_argument(self) -> Value | None:
        """What became of the first argument that failed."""
        found = None
        for _, entry in self.refs or ():
            if entry.value is not None and is_failure(entry.value):
                entry.seen = True  # whoever waits for this task gets it, or the one before it
                found = found or dependent(bare(entry.value), self.function.name)
        return found

    def can_wait(self, beyond: int) -> bool:
        """Whether whoever waits for its results waits for more than so many others as well, so that these may lie.

        Not if nobody waits: then somebody may ask for them at any moment.
        """
        if self.stream is not None:
            return False
        for entry in self.returns:
            if not entry.waiters or entry.asked:
                return False
            for waiter in entry.waiters:
                if waiter.missing <= beyond:
                    return False
        return True

    def lose_retry(self) -> bool:
        """Whether it had one left. What a call may be retried for within a life counts on from what is left."""
        if not self.retries:
            return False
        if self.retries > 0:
            self.retries -= 1
            if self.actor is not None:
                method = decode(self.function.id)
                if method.retried:
                    wired = encode(method._replace(retries=self.retries))
                    self.function = Function(FunctionId(wired), self.function.name, b"")
        return True

    def entry_ready(self, entry: Entry) -> None:
        self.missing -= 1
        if not self.missing and self.on_runnable:
            self.on_runnable(self)


class Shape:
    """Tasks that any lease of these resources, in this environment, can run; one queue per node where their arguments
    lie."""

    __slots__ = (
        "coming",
        "env",
        "fresh",
        "hungry",
        "max_calls",
        "mean_s",
        "per_lease",
        "priority",
        "queues",
        "refused",
        "resources",
        "starving",
        "where",
    )

    def __init__(
        self,
        resources: Resources,
        retriable: bool,
        env: str = "",
        priority: int = 0,
        max_calls: int = 0,
        where: Where = (),
    ) -> None:
        self.resources = resources
        self.env = env
        self.priority = priority  # of its requests for workers; the highest goes first
        self.max_calls = max_calls  # after so many of these tasks a worker has to end; 0: never. Tasks of one function
        self.where = where
        self.per_lease = 1 if where[:1] == (SPREAD,) else max_calls  # so many tasks on one lease; 0: any number
        self.refused: Value | None = None  # what becomes of all these tasks: their placement group was removed
        self.queues: dict[NodeId | None, Queue] = {}
        self.mean_s: float | None = None  # running mean of a task's duration, seconds
        # A task without retries may not be run twice: it is never put behind another, where a crash leaves open
        # whether it began.
        self.fresh = not retriable
        # Of its queues: those with a worker without a task, and those with a worker, or one asked for.
        self.starving = self.coming = 0
        self.hungry = True  # a new task should be handed in at once; otherwise an event will come that takes it along

    def heard(self, tasks: int, busy_s: float) -> None:
        """Take a batch's duration into the mean; quicker to believe that tasks are short (a first one imports)."""
        mean = busy_s / tasks
        if self.mean_s is None:
            self.mean_s = mean
        else:
            self.mean_s += (mean - self.mean_s) * (0.5 if mean < self.mean_s else 0.2)

    def depth(self, limits: OwnerLimits, queued: int, workers: int, patient: bool) -> int:
        """How many tasks a worker may have at once. Of the last ones fewer, so that all workers end together."""
        if self.fresh or self.mean_s is None:
            return 1
        ahead_s = limits.patient_ahead_s if patient else limits.ahead_s
        depth = min(limits.most_ahead, int(ahead_s / max(self.mean_s, 1e-6)))
        if self.mean_s <= limits.one_behind_s:
            depth = max(depth, 2)
        if self.mean_s >= limits.even_out_s and workers > 1:
            depth = min(depth, max(int(limits.hand * queued / workers) + 1, 2 if queued >= workers else 1))
        return max(depth, 1)


class Queue:
    """Tasks of one shape whose arguments lie on one node (or nowhere in particular)."""

    __slots__ = ("asked_at", "coming", "leases", "prefer", "requests", "shape", "starving", "tasks")

    def __init__(self, shape: Shape, prefer: NodeId | None) -> None:
        self.shape = shape
        self.prefer = prefer
        self.tasks: deque[Task] = deque()
        self.leases = QueueLeases()
        self.requests: set[LeaseId] = set()
        self.starving = self.coming = False  # as its shape has counted it
        self.asked_at = 0.0  # when the first of these, or of those before, was sent


class Lease:
    """A worker that is ours for a while."""

    __slots__ = (
        "blocked",
        "careful",
        "due",
        "function",
        "heard",
        "id",
        "idle_since",
        "inflight",
        "left",
        "level",
        "load",
        "patience_s",
        "place",
        "queue",
        "reclaimed",
        "stealing",
        "worker",
    )

    def __init__(self, lease: LeaseId, worker: ProcessId, queue: Queue, now: float) -> None:
        self.id = lease
        self.worker = worker
        self.queue = queue
        self.inflight: dict[int, Task] = {}  # in the order pushed
        self.idle_since = now
        self.heard = now  # of its last answer, or when its first task was pushed
        self.function: Function | None = None  # of its last task: it has that one
        self.careful = -1  # the last task pushed to it that has to be run with care
        self.blocked = False  # its task waits for something; nothing more is pushed
        self.stealing = False  # a StealTasks is under way
        self.reclaimed = False  # others want it: nothing more is pushed, and it goes back when idle
        self.patience_s = 0.0  # after an answer, or its first task, it is stuck; if there are others behind that
        self.left = -1  # tasks that the worker may still be given; -1: without end
        # As `QueueLeases` knows it: the how-manieth that came, its tasks, these if it is open (else -1), and when it
        # will count as stuck (0.0: not yet asked).
        self.place, self.load, self.level, self.due = 0, 0, -1, 0.0

    @property
    def open(self) -> bool:
        return not (self.blocked or self.reclaimed) and self.left != 0

    @property
    def idle(self) -> bool:
        return not (self.inflight or self.blocked)


class Actor:
    """An actor as one of its callers sees it."""

    __slots__ = (
        "entry",
        "error",
        "hungry",
        "id",
        "incarnation",
        "inflight",
        "ordered",
        "queue",
        "ran_on",
        "serial",
        "state",
        "waiting",
        "why",
        "worker",
    )

    def __init__(self, actor: ActorId, entry: Entry) -> None:
        self.id = actor
        self.entry = entry  # counts the handles
        self.state = "pending"  # "pending", "alive", "moving", "restarting", "dead", as in `ActorChanged`
        self.incarnation = -1
        self.worker: ProcessId | None = None
        self.ran_on: ProcessId | None = None  # where the calls in flight were sent
        self.queue: deque[Task] = deque()  # in the order of the calls; the first may wait for its arguments
        self.inflight: dict[int, Task] = {}
        self.ordered = True  # a call that waits for its arguments holds up those behind it
        self.serial = True  # it works on one call at a time
        self.waiting: dict[int, Task] = {}  # not ordered: calls that wait for their arguments
        self.why = ""
        self.error: Value | None = None
        self.hungry = True
