"""Every message of the wire: who sends it to whom, and what answers it.

Four kinds of participants: a *process* (driver or worker, with an owner model inside), the *raylet* of its node,
the *head* (GCS and global scheduler) and, as receivers of work, *workers*. A message's envelope names sender and
receiver (`wire.codec.wrap`), so the messages themselves do not.

Fields are primitives only: bytes, str, int, float, bool, None, and lists, tuples, dicts of these.

A *value* (`Value` below) is how one result or argument travels:

    bytes                          a pickle: the common small value
    (PICKLE | ARROW, part, ...)    inline, with out-of-band buffers
    (ERROR, part, ...)             inline: the task failed; raise this instead
    (STORED, size, (node, ...))    in shared memory on these nodes; ask your own raylet to pin it
    (HOLDS, value, (object, ...))  a value with references inside: its sender has counted the receiver as their borrower
    (FAILED, class name, sentence, fact, ...)  the system failed, not the task: a class of `sparkray_core.errors`
    (DEPENDENT, value, (name, ...))  an argument was such an ERROR, so these tasks did not run: the last was told first
    (PLAIN, args)                  as a task's arguments only: none by keyword, and all as in `run.brief`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

from sparkray_core.frozen import frozen
from sparkray_core.ids import ActorId, FunctionId, GroupId, LeaseId, NodeId, ObjectId, ProcessId, TaskId

PROTOCOL_VERSION = 1

PICKLE, ARROW, ERROR, STORED, HOLDS, FAILED, DEPENDENT, PLAIN = 0, 1, 2, 3, 4, 5, 6, 7
Value = Union[bytes, "tuple[Any, ...]"]
Resources = dict[str, int]  # in thousandths: {"CPU": 1000} is one core. Whole numbers, so sums are exact.

Where = tuple[Any, ...]  # a task or actor may run; `model.where` says how it is written. (): anywhere

# Instead of a number of returns, of a task whose result is a stream: (items that its owner has from an earlier run,
# items read or STREAM_CLOSED or STREAM_UNREAD, how many may lie unread: 0 is without limit; or STREAM_GATHERED)
Returns = Union[int, "tuple[int, int, int]"]
STREAM_CLOSED, STREAM_UNREAD = -1, -2  # nobody reads: end at the next item | run on to the end, and send nothing
STREAM_GATHERED = -1  # the end is a value that refers to all the items
# (counter, function or method, number of returns, pickled (args, kwargs) or (PLAIN, args), [(position or keyword,
# Value, ObjectId)])
TaskTuple = tuple[int, bytes, Returns, Value, "list[tuple[int | str, Value, ObjectId]] | None"]
# (counter, [Value per return], [objects of others that the worker still holds])
# Of a stream, instead of the values: [its end, how many items were sent before, the last items...]; or just its end
ResultTuple = tuple[int, "list[Value]", "list[ObjectId] | None"]


NOTHING: dict[str, Any] = {}  # the default of a field; nobody writes to it
NO_COUNTS: dict[NodeId, tuple[int, int]] = {}  # likewise
NONE: list[Any] = []  # likewise
# How a task is made again in another process: (counter, function, payload, [(position or keyword, ObjectId)], [objects
# inside the arguments], number of returns, retries, resources, env, priority, max_calls, Where)
RecordedTask = tuple[
    int,
    FunctionId,
    Value,
    "list[tuple[int | str, ObjectId]]",
    "list[ObjectId]",
    int,
    int,
    Resources,
    str,
    int,
    int,
    Where,
]
# (id, its value, or None if it is not there; why its task could not be run again: a name in `model.records`)
RecordedObject = tuple[ObjectId, "Value | None", str]


# ---------------------------------------------------------------------------------- joining and leaving
@frozen
class RegisterProcess:
    """Driver, worker or Spark Python worker -> its raylet, first of all. Answered by `Registered`."""

    role: str  # "driver", "worker" or "guest" (a Spark Python worker: it only stores and reads objects)
    pid: int


@frozen
class Registered:
    """Raylet -> process. The descriptor of the shared segment went ahead of it, by SCM_RIGHTS."""

    session: str
    folder: str  # the node's folder; a process listens on <folder>/<last 8 bytes of its id in hex>.sock
    store_bytes: int


@frozen
class JoinNode:
    """Raylet -> head, first of all. Answered by `NodeTable`, which then has the node in it."""

    node: NodeId
    address: str  # tcp://host:port of the raylet's ROUTER
    host: str
    pid: int  # of the keeper
    resources: Resources
    labels: dict[str, str]
    store_bytes: int
    folder: str
    visits: bool = False  # it is there for one driver only: place nothing on it


@frozen
class NodeBeat:
    """Raylet -> head, every beat and after a change that matters to placement."""

    available: Resources
    queued: int  # lease requests waiting here
    task_s: float  # running mean of how long a lease takes to come back, seconds; 0 when unknown
    placed: int = 0  # how many of the head's placements here (leases and actors, in order) had arrived by now
    settled: int = 0  # the first so many of them wait no more: they have a worker, moved on, or were dropped
    bound: Resources = NOTHING  # by actors, waiting ones too, and by placement groups: for long
    others: dict[NodeId, tuple[int, int]] = NO_COUNTS  # the same two of the schedulers beside the head
    pull_bytes_s: float = 0.0  # running mean of how fast objects came from other hosts, bytes a second; 0: unknown
    longer_s: float = 0.0  # beyond the usual time until the next one, seconds: there are many nodes


@frozen
class NodeTable:
    """Head -> raylet that joined: all nodes. Head -> every raylet, whenever some joined or left: these, as links lose
    nothing of what was said before. Raylets keep it for routing and for `nodes()`."""

    nodes: list[dict[str, Any]]  # NodeInfo.as_dict() of each, dead ones too, with "alive"


@frozen
class JoinScheduler:
    """Scheduler -> head, first of all and then every beat. Answered, once, by `NodeTable` and `Loads`."""

    address: str  # tcp://host:port, where raylets reach it
    decisions: int  # leases that it has placed so far


@frozen
class SchedulerTable:
    """Head -> every raylet, whenever a scheduler came or went, and with `NodeTable`: all there are beside the head."""

    schedulers: list[tuple[NodeId, str]]  # address


@frozen
class JoinShard:
    """Shard of the GCS -> head, once. Answered by a `NodeTable`; from then on it hears of all nodes and all deaths."""

    address: str  # tcp://host:port, where raylets reach it


@frozen
class ShardTable:
    """Head -> every raylet that joins, before its first `NodeTable`, and to all when a shard has come."""

    count: int  # of all there will be: by it raylets know whose records go where
    shards: list[tuple[NodeId, str]]  # that have joined, and their addresses


@frozen
class CloseNode:
    """Head -> every shard: this node is dead. An `EstateClosed` for each owner there, then `NodeClosed`, answer it;
    what of its records comes later is not looked at."""

    node: NodeId
    why: str


@frozen
class NodeClosed:
    """Shard -> head: you have all that I had of the owners on that node."""

    node: NodeId


@frozen
class Loads:
    """Head -> scheduler: what nodes have reported since the last one."""

    # node, available, queued, task_s, bound, and of this scheduler's placements placed and settled: as in `NodeBeat`
    rows: list[tuple[NodeId, Resources, int, float, Resources, int, int]]


@frozen
class SchedulerGone:
    """Raylet -> its processes: leases that were asked for may have been lost on their way. Ask again."""


@frozen
class NodeGone:
    """Head -> every raylet -> its processes: whatever was only there is lost.

    Also raylet -> head: I do not reach this node any more. (The head then decides which of the two is gone.)
    """

    node: NodeId
    why: str
    planned: bool = False  # it was drained: nobody's retries are counted


@frozen
class DrainNode:
    """Any process -> head: this node is to leave, once nothing there would be missed. Answered by `Answer`: why not;
    empty, it begins. A second one changes reason and deadline."""

    request: int  # 0: no answer is wanted
    node: NodeId
    why: str
    deadline_s: float | None  # it leaves by then, whatever still runs there
    idle_only: bool = False  # only if it has nothing to do now


@frozen
class NodeDraining:
    """Head -> the raylet of a node that is to be drained."""

    why: str
    deadline_s: float | None


@frozen
class TakeObject:
    """Raylet that is being drained -> another: have a copy, and keep it. Answered by `ObjectTaken`."""

    object: ObjectId


@frozen
class ObjectTaken:
    """Answers `TakeObject`."""

    object: ObjectId
    done: bool


@frozen
class ObjectMoved:
    """Raylet that is being drained -> owner: another node has taken it. Let it be freed here."""

    object: ObjectId
    node: NodeId  # that leaves
    to: NodeId


@frozen
class NodeSaid:
    """Raylet -> head -> every driver: what it has logged of warnings. Drivers keep the last lines, should it die."""

    node: NodeId
    lines: list[str]


@frozen
class ExplainNode:
    """A driver -> head: what Spark says of a node that is gone. `nodes()` says it from now on."""

    node: NodeId
    why: str


@frozen
class ProcessGone:
    """Raylet -> head -> every raylet -> its processes, and to and from shards of the GCS: what it borrowed is nobody's
    now. Nor is what it owned, unless the head names an heir, which owns that from now on: whoever refers to it says so
    to the heir, and asks there."""

    process: ProcessId
    why: str  # exit status or signal, in words
    heir: ProcessId | None = None
    kept: list[ObjectId] = NONE  # the heir's objects that may lie in stores; all others of the process go


@frozen
class EndSession:
    """A driver, its raylet or a keeper -> head -> every raylet -> its processes: stop, all of you."""

    why: str


@frozen
class Ask:
    """Process -> head or raylet. Answered by `Answer` with the same number."""

    request: int
    what: str  # "nodes"; "status", "objects" (of a raylet)


@frozen
class Answer:
    request: int
    value: Any


@frozen
class RegisterJob:
    """Driver -> head, once it has connected. Answered by `Answer`: the id of its job, in hexadecimal."""

    request: int
    facts: dict[str, Any]  # of the driver: "pid", "host", "command", "namespace", "started" (seconds since 1970)


# ---------------------------------------------------------------------------------- leases
@frozen
class RequestLeases:
    """Owner -> its raylet -> (when not grantable there) head -> the chosen raylet, which grants or queues.

    Each is answered by `LeaseGranted` or `LeaseRefused`, from whichever raylet it ended at.
    """

    leases: list[LeaseId]
    resources: Resources  # of each
    prefer: list[NodeId]  # where the arguments lie, best first
    placed: bool = False  # set by the head: queue it if need be, do not bounce it back
    env: str = ""  # the environment that the worker must have, as `SetUpWorker.env`; empty: none
    retriable: bool = True  # what will run there may be run again, should the worker be killed to save memory
    priority: int = 0  # of those that wait on a node the highest goes first, whoever asked
    name: str = ""  # of a function that it is wanted for: in reports only
    where: Where = ()
    lying: Sequence[int] = ()  # bytes of the arguments in the store of each node of `prefer`


@frozen
class PlaceLeases:
    """Scheduler -> the chosen raylet, which grants or queues: a `RequestLeases` of `owner` that is placed."""

    owner: ProcessId
    leases: list[LeaseId]
    resources: Resources
    prefer: list[NodeId]
    env: str
    retriable: bool
    priority: int
    name: str
    where: Where
    lying: Sequence[int] = ()


@frozen
class LeaseGranted:
    """Raylet -> owner. The worker is the owner's until `ReturnLeases` or `LeaseLost`."""

    lease: LeaseId
    worker: ProcessId


@frozen
class LeaseRefused:
    """Raylet or head -> owner: no node could ever grant this."""

    lease: LeaseId
    why: str
    kind: str = "TaskUnschedulableError"  # or another class of `sparkray_core.errors`


@frozen
class ReturnLeases:
    """Owner -> the raylet that granted them; those not granted yet: its own raylet -> head -> where they wait."""

    leases: list[LeaseId]


@frozen
class RetireWorkers:
    """Owner -> the raylet that granted these leases: they are done, and so are their workers (`max_calls`)."""

    leases: list[LeaseId]


@frozen
class ReclaimLeases:
    """Raylet -> owner: others wait. Give these back once they are idle, even if you have more to do."""

    leases: list[LeaseId]


@frozen
class LeaseLost:
    """Raylet -> owner: the leased worker died. Its unfinished tasks will not answer."""

    lease: LeaseId
    why: str
    kind: str = "WorkerCrashedError"  # or "OutOfMemoryError": it was ended to save memory


# ---------------------------------------------------------------------------------- tasks and calls
AT_ONCE = -1.0


@frozen
class PushTasks:
    """Owner -> leased worker. Every task is answered once: in a `TaskResults` or a `TasksReturned`."""

    functions: list[tuple[FunctionId, str, bytes]]  # id, display name, pickle: only those this worker has not had
    tasks: list[TaskTuple]
    # Results may lie so long in the worker, for more to come; not those of the last task it has. `AT_ONCE`: each leaves
    # before the next task begins.
    hold_s: float = 0.0


@frozen
class PushCalls:
    """Owner -> actor's worker, in the order of the calls. Answered like `PushTasks`."""

    actor: ActorId
    calls: list[TaskTuple]  # the "function" is the method's name, encoded


@frozen
class TaskResults:
    """Worker -> owner."""

    results: list[ResultTuple]
    busy_s: float  # seconds that these took to run, together


@frozen
class StealTasks:
    """Owner -> leased worker: give back up to this many that you have not begun. Answered by `TasksReturned`."""

    most: int


@frozen
class CancelTask:
    """Owner -> worker that has the task: drop or interrupt it. It is answered all the same, by what came of it."""

    count: int
    force: bool  # end the process rather than interrupt it
    recursive: bool  # and what the task has submitted


@frozen
class CancelMaker:
    """Who borrows an object -> its owner: cancel the task or call that makes it. One that has ended stays as it is."""

    object: ObjectId
    force: bool
    recursive: bool


@frozen
class CallRetried:
    """Actor's worker -> owner: the call raised what it is to be retried for, and runs again. One retry is used up."""

    count: int


@frozen
class TasksReturned:
    """Worker -> owner: not begun, run them elsewhere. Unasked for when the worker blocks in `get`."""

    counts: list[int]
    blocked: bool  # the worker waits for something: push no more until it reports a result


@frozen
class WorkerBlocked:
    """Worker -> its raylet: my task waits in `get` or `wait`; lend its CPU to others.

    Instead of lending it the raylet may answer with `RunNested`, if `helps`.
    """

    wait: int = 0  # number of this wait, which `RunNested` repeats; 0 for one that does not help
    helps: bool = False  # what it waits for are tasks of its own that nobody has, and nothing else ends the wait


@frozen
class RunNested:
    """Raylet -> a worker that waits: run what you wait for yourself, on top of your task. Your CPU is your own again.

    Answered with `WorkerUnblocked` by who does, with `WorkerBlocked` by who cannot any more. Whose wait has ended has
    sent `WorkerUnblocked` already, or is about to.
    """

    wait: int
    resources: Resources  # only tasks that need just these
    priority: int  # and have this one


@frozen
class WorkerUnblocked:
    """Worker -> its raylet: it runs on. (Its CPU is counted again at once, even if that oversubscribes.)"""


@frozen
class ExitWorker:
    """Raylet -> worker: finish what you run, and end as soon as nobody refers to objects that you own."""

    why: str


# ---------------------------------------------------------------------------------- actors
@frozen
class CreateActor:
    """Owner -> head. The owner watches the actor from then on: `ActorChanged`."""

    actor: ActorId
    name: str  # of the class, for display
    function: FunctionId
    blob: bytes  # the pickled class
    payload: Value
    refs: list[tuple[int | str, Value, ObjectId]] | None
    resources: Resources  # held for life
    placement: Resources  # what must be free when it is placed (an actor of no resources still asks for a CPU then)
    max_restarts: int  # -1: without limit
    setup: dict[str, Any] = NOTHING  # for the worker: how many calls at once, in which groups
    detached: bool = False  # lives on when its creator's process ends
    env: str = ""  # of its worker, as in `RequestLeases`
    where: Where = ()


@frozen
class StartActor:
    """Head -> raylet -> a fresh worker. The worker answers the head with `ActorReady` or `ActorFailed`."""

    actor: ActorId
    incarnation: int  # 0 for the first life
    name: str
    function: FunctionId
    blob: bytes
    payload: Value
    refs: list[tuple[int | str, Value, ObjectId]] | None
    resources: Resources
    placement: Resources
    setup: dict[str, Any] = NOTHING
    env: str = ""
    retriable: bool = False  # a restart is left, should the worker be killed to save memory
    saved: Value | None = None  # the state that a former life saved last
    saved_object: ObjectId | None = None  # or it is in this object
    where: Where = ()


@frozen
class ActorReady:
    """Worker -> head: the constructor returned."""

    actor: ActorId
    incarnation: int


@frozen
class ActorFailed:
    """Worker -> head: the constructor raised. The worker ends; there is no restart.

    Also raylet -> head: its worker's environment cannot be set up.
    """

    actor: ActorId
    incarnation: int
    error: Value


@frozen
class SaveActor:
    """Worker -> head: the state of the actor, for its next life, in place of the former one. Answered by `ActorSaved`.

    An object is its raylet's, and the head was counted in as its borrower.
    """

    actor: ActorId
    incarnation: int
    number: int  # counts up within a life
    state: Value | None  # None: it is in the object
    object: ObjectId | None
    size: int  # bytes


@frozen
class ActorSaved:
    """Head -> worker: the next life would begin with this state."""

    actor: ActorId
    number: int


@frozen
class ActorLost:
    """Raylet -> head: the actor's worker ended."""

    actor: ActorId
    incarnation: int
    why: str
    meant: bool  # it was told to end, or ended itself: no restart
    kind: str = ""  # the class of the error for its callers, if it is not to be the usual one


@frozen
class NameActor:
    """Creator -> head, before `CreateActor`. Answered by `Answer`: None, or (actor, facts) of who has the name."""

    request: int
    key: str  # namespace and name
    actor: ActorId
    facts: Any  # what makes a handle of its id


@frozen
class FindActor:
    """Process -> head. Answered by `Answer`: (actor, facts) of the living actor of that name, or None."""

    request: int
    key: str


@frozen
class WatchActor:
    """Process -> head: tell me of this actor, now and at every change, by `ActorChanged`."""

    actor: ActorId


@frozen
class ActorChanged:
    """Head -> everyone who watches the actor."""

    actor: ActorId
    # "pending", "alive", "restarting", "dead"; "moving": answers to calls that were made still come, and further calls
    # are to wait until it is alive elsewhere.
    state: str
    incarnation: int
    worker: ProcessId | None  # when alive
    why: str  # when dead or restarting
    error: Value | None  # when dead because the constructor raised


@frozen
class EndActor:
    """Process -> head: `kill`, or the last handle is gone (then calls already made finish first)."""

    actor: ActorId
    why: str
    restart: bool  # a kill that may use up a restart
    gently: bool  # let queued calls finish


@frozen
class StopActor:
    """Head -> raylet (which kills), or with `gently` on to the worker (which finishes its queue and ends)."""

    actor: ActorId
    incarnation: int
    why: str
    gently: bool


@frozen
class ActorUnplaced:
    """Raylet -> head: this life still waits here for room and has not begun. Place it again, here or elsewhere."""

    actor: ActorId
    incarnation: int


# ---------------------------------------------------------------------------------- objects
@frozen
class AskObjects:
    """Borrower -> owner: tell me when these are ready. Each is answered by `ObjectReady`."""

    objects: list[ObjectId]


@frozen
class ObjectReady:
    """Owner -> borrower."""

    object: ObjectId
    value: Value


@frozen
class ObjectMissing:
    """Reader -> owner: none of these nodes has it any more. Answered by `ObjectReady`: where it is now, perhaps only
    after it was made again, or why it is lost."""

    object: ObjectId
    nodes: list[NodeId]


@frozen
class AddBorrowers:
    """Sender of a ref -> owner: these processes hold these objects now."""

    pairs: list[tuple[ObjectId, ProcessId]]


@frozen
class DropBorrowers:
    """Borrower -> owner. Counts may go below zero for a moment, when this overtakes its `AddBorrowers`."""

    pairs: list[tuple[ObjectId, ProcessId]]


@frozen
class CheckBorrowed:
    """Owner -> a process that it counts as a borrower, or the GCS: one died that had lent you some of these. How often
    were you counted in? Answered by `BorrowedCounts`. The head passes it on to its shards, and they answer, too."""

    round: int
    objects: list[ObjectId]


@frozen
class BorrowedCounts:
    """Borrower -> owner, behind all that it has let go of by then."""

    round: int
    counts: list[tuple[ObjectId, int]]
    others: list[ProcessId] = NONE  # of the head: the shards, for whom it is counted in, too; each says so itself


@frozen
class AdoptObject:
    """Worker -> its raylet: I have put this under an id of yours. You own it now, and I am its first borrower."""

    object: ObjectId
    value: Value


@frozen
class RecordObjects:
    """Owner that may die before those who borrow from it -> the GCS: what others borrow of mine, should I die.

    What is told of an object takes the place of what was told before. The GCS was counted in as a borrower of all
    references inside these values and tasks. Of a dead owner's are made an `EstateClosed` and an `InheritObjects`.
    """

    driver: ProcessId  # for whose job it works: the heir; empty: the one that started the session
    functions: list[tuple[FunctionId, str, bytes]]  # that the tasks name, and that were not sent before
    tasks: list[RecordedTask]  # that were not sent before, and that make these objects
    objects: list[RecordedObject]


@frozen
class ReplicateObject:
    """Process -> its raylet, which owns it, or has it in its store for us: so many nodes in all are to keep it."""

    object: ObjectId
    copies: int


@frozen
class ForgetRecords:
    """Owner -> the GCS: these were freed."""

    objects: list[ObjectId]


@frozen
class EstateClosed:
    """A shard of the GCS -> head: this owner died, and here is what it had recorded; nothing, if there is no object.

    The head says to the shards who the heir is, or that there is none, with the `ProcessGone` that it tells all nodes.
    Where the head keeps the records itself, it makes this for itself.
    """

    owner: ProcessId
    why: str
    driver: ProcessId  # as in `RecordObjects`
    functions: list[tuple[FunctionId, str, bytes]]
    tasks: list[RecordedTask]
    objects: list[RecordedObject]


@frozen
class InheritObjects:
    """Head -> heir: this owner died, and what it had recorded is yours. The head holds what is inside for half a
    minute more, in which you say that you do."""

    owner: ProcessId
    why: str
    functions: list[tuple[FunctionId, str, bytes]]
    tasks: list[RecordedTask]
    objects: list[RecordedObject]


@frozen
class NameResults:
    """Owner -> leased worker, ahead of tasks that another owner had submitted: under which ids to store their
    results."""

    names: list[tuple[int, TaskId]]  # counter of the task


@frozen
class AllocateObject:
    """Process -> its raylet: room for an object. Answered by `ObjectAllocated` or `ObjectRefused`."""

    object: ObjectId
    size: int  # bytes


@frozen
class ObjectAllocated:
    object: ObjectId
    offset: int  # into the segment


@frozen
class ObjectRefused:
    """Raylet -> process: the store cannot take it."""

    object: ObjectId
    why: str
    error: str = "ObjectStoreFullError"  # or OutOfDiskError


@frozen
class SealObjects:
    """Process -> its raylet: written, readable by all from now on, never written again."""

    objects: list[ObjectId]


@frozen
class PinObject:
    """Process -> its raylet: hold this object in the segment while I read it, fetching it first if it is elsewhere.

    Answered by `ObjectPinned` or `ObjectGone`.
    """

    object: ObjectId
    nodes: list[NodeId]  # that have it, as far as the asker knows


@frozen
class ObjectPinned:
    object: ObjectId
    offset: int  # in the segment, or in the file
    size: int
    file: int = 0  # of spilled objects, in the node's folder, when memory has no room for it; 0: in the segment


@frozen
class ObjectGone:
    """Raylet -> process: on none of the nodes that were named, or there is no room here to read it."""

    object: ObjectId
    why: str
    error: str = "ObjectLostError"  # or what `ObjectRefused` has


@frozen
class UnpinObjects:
    """Process -> its raylet: the last view of each died. One entry per pin."""

    objects: list[ObjectId]


@frozen
class FreeObjects:
    """Owner -> a raylet that holds them: nobody refers to these any more."""

    objects: list[ObjectId]


@frozen
class FreeTransfer:
    """Owner -> raylets: of this DataFrame transfer's objects keep these only (failed and doubled attempts go)."""

    prefix: bytes  # of the object ids
    keep: list[ObjectId]


@frozen
class PullObject:
    """Raylet -> raylet that holds the object, or a part of it. Answered by `ObjectChunk`, `ObjectThere`, `PullFrom` or
    `NotHere`."""

    object: ObjectId
    first: int  # byte
    most: int  # bytes in the chunk
    maps: bool = False  # the asker has the other's segment mapped, being on the same host: it needs only the place


@frozen
class ObjectThere:
    """Raylet -> raylet that has its segment mapped: copy it from there; it stays until your `PullDone`."""

    object: ObjectId
    size: int
    offset: int  # in the sender's segment


@frozen
class PullDone:
    """Raylet -> raylet that it pulled from: it needs the object there no more. Not answered."""

    object: ObjectId


@frozen
class PullFrom:
    """Raylet -> raylet that wants to pull: ask this node, which pulls it as well or has done so. If it fails, ask me
    again: who asks a second time is served."""

    object: ObjectId
    node: NodeId


@frozen
class ObjectChunk:
    object: ObjectId
    first: int
    size: int  # of the whole object
    data: bytes | bytearray


@frozen
class AskLane:
    """Raylet -> raylet that pulls large objects from it. Answered by `LaneAt`; the rest is `run/lanes.py`'s."""


@frozen
class LaneAt:
    port: int  # 0: there is none to be had


@frozen
class NotHere:
    object: ObjectId


@frozen
class CopyMade:
    """Raylet -> owner: this node has a copy too, so free it too."""

    object: ObjectId
    node: NodeId
    source: NodeId  # that it has it from; of what it has had for long, itself


@frozen
class LogLines:
    """Worker -> who gave it its work, on and on up to the driver: what was printed."""

    name: str  # of the function or actor class
    pid: int
    host: str  # empty: the same as the receiver's
    stream: int  # 1 stdout, 2 stderr
    lines: list[str]


# ---------------------------------------------------------------------------------- streams
@frozen
class StreamItems:
    """Worker -> owner: what the task has yielded since the last time."""

    count: int
    first: int  # items that precede these
    values: list[Value]


@frozen
class StreamRead:
    """Owner -> worker that runs the task: so many of its items were read, so it may go on."""

    count: int
    taken: int  # or STREAM_CLOSED, STREAM_UNREAD


# ---------------------------------------------------------------------------------- environments of workers
@frozen
class SetUpWorker:
    """Raylet -> a worker that nobody has used yet: take on this environment, for good. Answered by `WorkerSetUp`."""

    env: str  # JSON, as `sparkray_core.run.environment` reads it; to models only a name


@frozen
class WorkerSetUp:
    """Worker -> its raylet."""

    why: str  # it failed; empty: done


@frozen
class SetThreads:
    """Raylet -> idle worker, before it is granted: so many CPUs are yours, so many threads are your libraries'.

    Answered by `OrderTaken`.
    """

    count: int


@frozen
class SetGpus:
    """Raylet -> idle worker, before it is granted: what runs next may use the GPUs of these numbers, and no others.

    Answered by `OrderTaken`.
    """

    gpus: list[int]


@frozen
class OrderTaken:
    """Worker -> its raylet: what is pushed from now on comes behind it. (Owners push by ways of their own.)"""


# ---------------------------------------------------------------------------------- placement groups
@frozen
class CreateGroup:
    """Process -> head, which tells the process from then on: `GroupChanged`.

    With a name it is also answered by `Answer`: whether the name was free. Else there is no group.
    """

    request: int  # of the answer
    group: GroupId
    key: str  # namespace and name; empty: it has none
    bundles: list[Resources]
    strategy: str  # "PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"
    where: Where  # ("labels", choices): for each bundle what its node must be like; or ()
    detached: bool
    job: str  # with whose driver it goes, if it is not detached; empty: with the process that created it
    creator: ActorId | None = None  # an actor that created it: as long as that lives, it does, too


@frozen
class RemoveGroup:
    """Process -> head: give back what it holds, and end what runs there."""

    group: GroupId


@frozen
class WatchGroup:
    """Process -> head: tell me of this group, now and at every change, by `GroupChanged`."""

    group: GroupId


@frozen
class GroupChanged:
    """Head -> everyone who watches the group."""

    group: GroupId
    state: str  # "PENDING", "CREATED", "RESCHEDULING", "REMOVED"
    why: str


@frozen
class DescribeGroups:
    """Process -> head. Answered by `Answer`: a list of what the head knows, of each group as a dict."""

    request: int
    groups: list[GroupId]  # of these; empty: of all, or of the one that is called
    key: str = ""  # by namespace and name


@frozen
class ReserveBundles:
    """Head -> raylet, first phase: set these aside, all or none. Answered by `BundlesReserved`."""

    group: GroupId
    attempt: int  # the group's so-manieth
    bundles: list[tuple[int, Resources]]  # number in the group, what it holds
    waits: bool = False  # for what comes free, and owners are asked for: answered when all is there


@frozen
class BundlesReserved:
    """Raylet -> head."""

    group: GroupId
    attempt: int
    done: bool  # they are set aside; else there was no room for all of them, and none is


@frozen
class CommitBundles:
    """Head -> raylets, second phase, when all have reserved: work of the group may use them."""

    group: GroupId
    bundles: list[int]


@frozen
class ReleaseBundles:
    """Head -> raylet: give these back, and end whatever runs there."""

    group: GroupId
    bundles: list[int]
    why: str


@frozen
class SetGroup:
    """Owner -> leased worker: what I push to you from now on works in this placement group. (An actor is told by its
    `StartActor.where`.)"""

    group: GroupId  # empty: in none
    captures: bool  # and so do the tasks and actors that it makes


# ---------------------------------------------------------------------------------- being looked at
@frozen
class Inspect:
    """Any process -> driver, worker or raylet: what do you know of this? Answered by `Answer`, soon.

    A worker whose user code runs answers from its side thread. What can be asked: `run/inspection.py`; of a raylet
    `run/node_inspection.py`.
    """

    request: int
    what: str
    detail: Any = None


@frozen
class LeaveRecords:
    """Worker that ends -> its raylet: what it would have answered to `Inspect` later on."""

    records: Any


Message = (
    RegisterProcess
    | Registered
    | JoinNode
    | NodeBeat
    | NodeTable
    | NodeGone
    | NodeSaid
    | ExplainNode
    | ProcessGone
    | EndSession
    | Ask
    | Answer
    | RegisterJob
    | RequestLeases
    | LeaseGranted
    | LeaseRefused
    | ReturnLeases
    | ReclaimLeases
    | RetireWorkers
    | LeaseLost
    | PushTasks
    | PushCalls
    | TaskResults
    | StealTasks
    | CancelTask
    | CancelMaker
    | TasksReturned
    | CallRetried
    | WorkerBlocked
    | WorkerUnblocked
    | RunNested
    | ExitWorker
    | CreateActor
    | StartActor
    | ActorReady
    | ActorFailed
    | SaveActor
    | ActorSaved
    | ActorLost
    | NameActor
    | FindActor
    | WatchActor
    | ActorChanged
    | EndActor
    | StopActor
    | ActorUnplaced
    | AskObjects
    | ObjectReady
    | ObjectMissing
    | AddBorrowers
    | DropBorrowers
    | AllocateObject
    | ObjectAllocated
    | ObjectRefused
    | SealObjects
    | PinObject
    | ObjectPinned
    | ObjectGone
    | UnpinObjects
    | FreeObjects
    | FreeTransfer
    | PullObject
    | ObjectThere
    | PullDone
    | PullFrom
    | AskLane
    | LaneAt
    | ObjectChunk
    | NotHere
    | CopyMade
    | AdoptObject
    | LogLines
    | StreamItems
    | StreamRead
    | SetUpWorker
    | WorkerSetUp
    | SetThreads
    | OrderTaken
    | SetGpus
    | CreateGroup
    | RemoveGroup
    | WatchGroup
    | GroupChanged
    | DescribeGroups
    | ReserveBundles
    | BundlesReserved
    | CommitBundles
    | ReleaseBundles
    | SetGroup
    | Inspect
    | LeaveRecords
    | DrainNode
    | NodeDraining
    | TakeObject
    | ObjectTaken
    | ObjectMoved
    | RecordObjects
    | ForgetRecords
    | JoinShard
    | ShardTable
    | CloseNode
    | NodeClosed
    | EstateClosed
    | InheritObjects
    | NameResults
    | JoinScheduler
    | SchedulerTable
    | Loads
    | SchedulerGone
    | PlaceLeases
    | ReplicateObject
    | CheckBorrowed
    | BorrowedCounts
)

# Numbers are never used twice, not even after a message is gone.
MESSAGES: Mapping[int, type[Message]] = {
    1: RegisterProcess,
    2: Registered,
    3: JoinNode,
    4: NodeBeat,
    5: NodeTable,
    6: NodeGone,
    7: ProcessGone,
    8: EndSession,
    9: Ask,
    10: Answer,
    20: RequestLeases,
    21: LeaseGranted,
    22: LeaseRefused,
    23: ReturnLeases,
    24: ReclaimLeases,
    25: LeaseLost,
    30: PushTasks,
    31: PushCalls,
    32: TaskResults,
    33: StealTasks,
    34: TasksReturned,
    35: WorkerBlocked,
    36: WorkerUnblocked,
    37: ExitWorker,
    38: CancelTask,
    39: RunNested,
    40: CreateActor,
    41: StartActor,
    42: ActorReady,
    43: ActorFailed,
    44: ActorLost,
    45: WatchActor,
    46: ActorChanged,
    47: EndActor,
    48: StopActor,
    50: NameActor,
    51: FindActor,
    49: ActorUnplaced,
    60: AskObjects,
    61: ObjectReady,
    62: AddBorrowers,
    63: DropBorrowers,
    64: AllocateObject,
    65: ObjectAllocated,
    66: ObjectRefused,
    67: SealObjects,
    68: PinObject,
    69: ObjectPinned,
    70: ObjectGone,
    71: UnpinObjects,
    72: FreeObjects,
    73: FreeTransfer,
    74: PullObject,
    75: ObjectChunk,
    76: NotHere,
    77: CopyMade,
    78: ObjectMissing,
    80: LogLines,
    120: AdoptObject,
    130: StreamItems,
    131: StreamRead,
    140: CallRetried,
    141: RetireWorkers,
    142: CancelMaker,
    110: RegisterJob,
    150: SetUpWorker,
    151: WorkerSetUp,
    152: SetThreads,
    153: SetGpus,
    154: OrderTaken,
    160: Inspect,
    161: LeaveRecords,
    170: SaveActor,
    171: ActorSaved,
    180: CreateGroup,
    181: RemoveGroup,
    182: WatchGroup,
    183: GroupChanged,
    184: DescribeGroups,
    185: ReserveBundles,
    186: BundlesReserved,
    187: CommitBundles,
    188: ReleaseBundles,
    189: SetGroup,
    190: NodeSaid,
    191: ExplainNode,
    210: DrainNode,
    211: NodeDraining,
    212: TakeObject,
    213: ObjectTaken,
    214: ObjectMoved,
    220: ObjectThere,
    221: PullDone,
    222: PullFrom,
    240: RecordObjects,
    241: ForgetRecords,
    242: InheritObjects,
    243: NameResults,
    250: JoinScheduler,
    251: SchedulerTable,
    252: Loads,
    253: SchedulerGone,
    254: PlaceLeases,
    260: JoinShard,
    261: ShardTable,
    262: EstateClosed,
    263: CloseNode,
    264: NodeClosed,
    270: CheckBorrowed,
    271: BorrowedCounts,
    290: AskLane,
    291: LaneAt,
    244: ReplicateObject,
}
