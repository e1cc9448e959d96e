"""An owner's workers on lease: how many it asks for, what it pushes to which, when it gives them back.

queued task -> a lease with room? -> PushTasks
            -> none: RequestLeases -> LeaseGranted
nothing queued: an idle lease helps a sibling queue, steals from a loaded lease, or after a while goes back
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from sparkray_core.ids import FunctionId, GroupId, LeaseId, NodeId, ProcessId, node_of, raylet_of, task_id
from sparkray_core.messages import (
    AT_ONCE,
    FAILED,
    FreeObjects,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    NameResults,
    PushTasks,
    ReclaimLeases,
    RequestLeases,
    Resources,
    RetireWorkers,
    ReturnLeases,
    SetGroup,
    StealTasks,
    TasksReturned,
    TaskTuple,
    Value,
    Where,
)
from sparkray_core.model.book import Book
from sparkray_core.model.bounded import Recent
from sparkray_core.model.effects import Effect, Send, WakeAt
from sparkray_core.model.entries import is_stored, place
from sparkray_core.model.legacy import INHERITED
from sparkray_core.model.tasks import Lease, OwnerLimits, Queue, Shape, Task
from sparkray_core.model.where import NO_GROUP, group_of, membership

_REMEMBERED = 10_000  # placement groups that were removed
_TOLD = 3  # of the nodes that have arguments, those that have most: where else, matters little


class Leasing:
    """The tasks of an owner that may run on any worker."""

    def __init__(self, book: Book, limits: OwnerLimits) -> None:
        self.book = book
        self.limits = limits
        self.raylet = raylet_of(node_of(book.me))
        self.shapes: dict[tuple[object, ...], Shape] = {}
        self.leases: dict[LeaseId, Lease] = {}
        self.requests: dict[LeaseId, Queue] = {}
        self.by_worker: dict[ProcessId, Lease] = {}
        self.taught: dict[ProcessId, set[FunctionId]] = {}  # the functions that each worker has had
        self.groups: dict[ProcessId, tuple[GroupId, bool]] = {}  # in which each worker has been told to work for us
        # Workers that we gave back before they had all the calls of a function that they may have: so many are left.
        # They count for one function and one owner: a worker that others used in between may have a few more.
        self.worn: dict[ProcessId, tuple[int, Shape]] = {}
        self.own: dict[int, Task] = {}  # that this process runs itself; see `own_tasks`
        self.removed: Recent[GroupId, Value] = Recent(_REMEMBERED)  # what becomes of tasks of these groups
        self._count = 0  # of leases asked for
        self.touched: dict[Queue, None] = {}  # something happened to them. A set would forget the order
        self._wake: float | None = None
        self._oom_kills: dict[int, int] = {}  # task -> how often its worker was ended to save memory

    # ------------------------------------------------------------------ from the owner
    def dispatch(self, now: float, effects: list[Effect]) -> None:
        """Act on every queue that something happened to."""
        while self.touched:
            queue, _ = self.touched.popitem()
            leases = queue.leases
            answered, leases.unnoted = leases.unnoted, None
            if answered is None or not self._refill(queue, answered, effects):
                if answered is not None:
                    leases.note(answered)
                if leases.spent:
                    for lease in list(leases.spent):
                        self._give_back(lease, effects)
                if queue.shape.refused is not None:
                    self._refuse(queue, queue.shape.refused, effects)
                    self._drop_if_done(queue.shape)
                if queue.tasks:
                    self._fill(queue, now, effects)
            if queue.tasks:
                self._request(queue, now, effects)
            else:
                self._relieve(queue, now, effects)
            if leases.stuck:
                self._unstick(queue, now, effects)
            self._note_hunger(queue)

    def ticked(self) -> None:
        self._wake = None
        for shape in self.shapes.values():
            self.touched.update(dict.fromkeys(queue for queue in shape.queues.values() if queue.leases))

    def answered(self, lease: Lease, shape: Shape, tasks: int, busy_s: float, now: float) -> None:
        """A worker on lease sent results."""
        shape.heard(tasks, busy_s)
        lease.blocked = False
        lease.heard = now
        if not lease.inflight:
            lease.idle_since = now
        lease.queue.leases.note_later(lease)
        self.touched[lease.queue] = None

    def clear(self) -> None:
        for shape in self.shapes.values():
            for queue in shape.queues.values():
                queue.tasks.clear()

    def shape(
        self,
        resources: Resources,
        retriable: bool,
        env: str = "",
        priority: int = 0,
        worn_by: tuple[FunctionId, int] | None = None,
        where: Where = (),
    ) -> Shape:
        """
        Args:
            env: the environment that their worker must have, as in `RequestLeases`.
            worn_by: the function, and after how many of its calls a worker has to end. Such tasks are by themselves.
        """
        key = (retriable, env, priority, worn_by, where, *sorted(resources.items()))
        found = self.shapes.get(key)
        if found is None:
            found = self.shapes[key] = Shape(resources, retriable, env, priority, worn_by[1] if worn_by else 0, where)
            group = group_of(where)
            found.refused = self.removed.get(group) if group is not None else None
        return found

    def group_removed(self, group: GroupId, failure: Value) -> None:
        """Nothing runs in this placement group any more; what waits for a place in it fails."""
        self.removed.remember(group, failure)
        for shape in self.shapes.values():
            if group_of(shape.where) == group:
                shape.refused = failure
                self.touched.update(dict.fromkeys(shape.queues.values()))

    def queue(self, task: Task) -> None:
        """All its arguments are there: it runs as soon as a worker has room."""
        shape = task.shape
        assert shape is not None
        prefer = self._where(task) if task.refs else None
        queue = shape.queues.get(prefer)
        if queue is None:
            queue = shape.queues[prefer] = Queue(shape, prefer)
        queue.tasks.append(task)
        self.touched[queue] = None

    def withdraw(self, task: Task) -> ProcessId | None:
        """Take a task out of its queue; or say which worker has it. One that waits for arguments is in neither."""
        assert task.shape is not None
        if task.count in self.own:
            return self.book.me
        for queue in task.shape.queues.values():
            for lease in queue.leases:
                if task.count in lease.inflight:
                    return lease.worker
            if task in queue.tasks:
                queue.tasks.remove(task)
                self.touched[queue] = None
        return None

    def _note(self, lease: Lease) -> None:
        """Something happened to it."""
        lease.queue.leases.note(lease)
        self.touched[lease.queue] = None

    def touch(self, queue: Queue) -> None:
        """Something happened to it: `dispatch` acts on that."""
        self.touched[queue] = None

    @staticmethod
    def _where(task: Task) -> NodeId | None:
        """The node that has most of the arguments' bytes in its store."""
        weights = Leasing._lying(task)
        return max(weights, key=weights.__getitem__) if weights else None

    @staticmethod
    def _lying(task: Task) -> dict[NodeId, int]:
        """Bytes of its arguments in the stores of nodes."""
        weights: dict[NodeId, int] = {}
        for _, entry in task.refs or ():
            if entry.value is not None and is_stored(entry.value):
                size, nodes = place(entry.value)
                for node in nodes:
                    weights[node] = weights.get(node, 0) + size
        return weights

    @staticmethod
    def _note_hunger(queue: Queue) -> None:
        """Hungry: a worker of ours idles, or nothing is under way that would bring us back here. Of its shape's queues,
        of which there may be one for each node, only this one may have changed."""
        shape, starving, coming = queue.shape, queue.leases.starving, bool(queue.leases.all or queue.requests)
        if starving is not queue.starving:
            queue.starving = starving
            shape.starving += 1 if starving else -1
        if coming is not queue.coming:
            queue.coming = coming
            shape.coming += 1 if coming else -1
        shape.hungry = shape.starving > 0 or not shape.coming

    def _fill(self, queue: Queue, now: float, effects: list[Effect]) -> None:
        """Push to each worker with room, no more than an even share each."""
        depth, hold_s, beyond = self._depth(queue)
        leases = queue.leases.with_room(depth, len(queue.tasks))
        for position, lease in enumerate(leases):
            if not queue.tasks:
                return
            if not lease.inflight:
                lease.heard = now
            share = min(-(-len(queue.tasks) // (len(leases) - position)), depth - len(lease.inflight))
            self._push(lease, share if lease.left < 0 else min(share, lease.left), hold_s, beyond, effects)

    def _refill(self, queue: Queue, lease: Lease, effects: list[Effect]) -> bool:
        """What `_fill` would do where only this one, which has answered, has room: most answers, where there is much
        to do. It then changes no place in the books of `QueueLeases`. False: nothing was done."""
        leases, tasks = queue.leases, queue.tasks
        if not tasks or lease.level < 0 or not lease.open or leases.spent or queue.shape.refused is not None:
            return False
        depth, hold_s, beyond = self._depth(queue)
        load = len(lease.inflight)
        if load * 2 > depth or leases.has_room_beside(lease, depth):
            return False
        share = min(len(tasks), depth - load)
        if not self._push(lease, share if lease.left < 0 else min(share, lease.left), hold_s, beyond, effects):
            leases.note(lease)
        return True

    def _depth(self, queue: Queue) -> tuple[int, float, int]:
        """How many tasks a worker of this queue may have, for how long results may lie there, and how many others
        whoever waits for them has to wait for then."""
        limits, shape, tasks = self.limits, queue.shape, queue.tasks
        mean_s, workers = shape.mean_s or 0.0, queue.leases.open or 1
        if mean_s >= limits.patient_ahead_s:
            return 1, 0.0, workers  # nothing is behind it that a result could wait for
        depth = shape.depth(limits, len(tasks), workers, patient=True)
        beyond = depth * workers
        if mean_s >= limits.even_out_s and tasks[0].can_wait(beyond):
            return depth, min(limits.hold_s, depth * mean_s), beyond
        return shape.depth(limits, len(tasks), workers, patient=False), 0.0, beyond

    def lull(self) -> tuple[float, int]:
        """How long answers may lie before anybody misses them, and how many tasks could be answered meanwhile.

        Each wakes this process, beside workers that want the CPU. While tasks are queued and every worker has some
        ahead, a few together cost little more than one. (0 seconds: take them as they come.)
        """
        seconds, under_way, queued = self.limits.lull_s, 0, 0
        for shape in self.shapes.values():
            for queue in shape.queues.values():
                leases = queue.leases
                if not queue.tasks or shape.mean_s is None:
                    if leases.under_way:
                        return 0.0, 0
                    continue
                queued += len(queue.tasks)
                under_way += leases.under_way
                seconds = min(seconds, (leases.least_load - 1) * shape.mean_s / 2)
        if seconds <= 0 or under_way + queued < len(self.book.tasks):  # the rest waits for results, or is calls
            return 0.0, 0
        return seconds, under_way

    def _push(self, lease: Lease, most: int, hold_s: float, beyond: int, effects: list[Effect]) -> bool:
        """Whether it got any."""
        queued = lease.queue.tasks
        functions: list[tuple[FunctionId, str, bytes]] = []
        tasks: list[TaskTuple] = []
        room = self.limits.most_push_bytes
        inflight = lease.inflight
        last = inflight.get(lease.careful) if lease.careful >= 0 else None
        if last is not None and last.solo:
            return False  # nobody goes behind it
        while queued and len(tasks) < most and room > 0:
            task = queued[0]
            if task.solo and inflight:
                break
            queued.popleft()
            if task.refs and task.trouble() is not None:
                self.book.refuse(task, effects)
                continue
            function = task.function
            if function is not lease.function:  # else it has had it, and no book is opened for that
                lease.function = function
                known = self.taught.setdefault(lease.worker, set())
                if function.id not in known:
                    known.add(function.id)
                    functions.append((function.id, function.name, function.blob))
            if hold_s and not task.can_wait(beyond):
                hold_s = 0.0
            tasks.append(self.book.wire(task, lease.worker))
            inflight[task.count] = task
            if task.careful:
                lease.careful, last = task.count, task
            if type(task.payload) is bytes:
                room -= len(task.payload)
            if task.solo:
                break
        if not tasks:
            return False
        if lease.left > 0:
            lease.left -= len(tasks)
        if last is not None:  # else what is answered already might lie in the worker when the next one kills it
            hold_s = AT_ONCE
        calm_s = self.limits.patient_ahead_s if hold_s > 0 else self.limits.stuck_after_s
        lease.patience_s = max(calm_s, 3 * (lease.queue.shape.mean_s or 0.0)) + max(0.0, hold_s)
        lease.queue.leases.note(lease)
        if self.book.refs.legacy.mine:
            self._name_results(lease.worker, tasks, effects)
        effects.append(Send(lease.worker, PushTasks(functions, tasks, hold_s)))
        return True

    def _name_results(self, worker: ProcessId, tasks: list[TaskTuple], effects: list[Effect]) -> None:
        """Of tasks that were inherited: what they return has ids of the owner that died."""
        names = [(task[0], self.book.refs.legacy.task_id(task[0])) for task in tasks if task[0] >= INHERITED]
        if names:
            effects.append(Send(worker, NameResults(names)))

    def _request(self, queue: Queue, now: float, effects: list[Effect]) -> None:
        """Ask for as many workers as the queue would keep busy for a while."""
        if len(queue.requests) >= self.limits.most_requests:
            return
        shape = queue.shape
        waiting = len(queue.tasks)
        if shape.mean_s is None:
            wanted = min(waiting, self.limits.first_requests)
        else:
            wanted = min(waiting, max(1, int(waiting * shape.mean_s / self.limits.ahead_s)))
        if shape.per_lease:
            wanted = max(wanted, -(-waiting // shape.per_lease))
        most = self.limits.most_requests
        if not shape.per_lease:  # the first ones show how many can be had
            most = min(most, max(self.limits.first_requests, 2 * len(queue.leases)))
        wanted = min(wanted, most) - len(queue.requests)
        if wanted <= 0:
            return
        if not queue.requests:
            queue.asked_at = now
        leases: list[LeaseId] = []
        for _ in range(wanted):
            self._count += 1
            lease = LeaseId(task_id(self.book.me, self._count))
            leases.append(lease)
            queue.requests.add(lease)
            self.requests[lease] = queue
        lying = self._lying(queue.tasks[0]) if queue.prefer else None
        effects.append(Send(self.raylet, _asking(leases, queue, lying)))

    def _relieve(self, queue: Queue, now: float, effects: list[Effect]) -> None:
        """Nothing is queued. Idle workers help another queue, take half of a loaded one's work, or go back."""
        leases = queue.leases
        if queue.requests and not leases.busy:
            self._take_back(queue, effects)
        # Who idles longest comes first: what is not due for it is not due for the others.
        while leases.idle and self._lend_to_sibling(next(iter(leases.idle)), now, effects):
            pass
        while leases.idle:
            longest = next(iter(leases.idle))
            # Compared as they are asked for: a difference of times may round to less than it was meant to be.
            give_back_at = longest.idle_since + self.limits.linger_s
            if now < give_back_at:
                self._wake_at(give_back_at, effects)
                self._even_out(queue, longest, now, effects)
                return
            self._give_back(longest, effects)

    def _even_out(self, queue: Queue, longest: Lease, now: float, effects: list[Effect]) -> None:
        """One that idles for a while takes from the one that has most."""
        if now >= longest.idle_since + self.limits.steal_after_s:
            self._steal(queue, effects)
            longest = next(reversed(queue.leases.idle))  # the others look again when this one has idled for as long
        steal_at = longest.idle_since + self.limits.steal_after_s
        if queue.leases.loaded and now < steal_at:
            self._wake_at(steal_at, effects)

    def _take_back(self, queue: Queue, effects: list[Effect]) -> None:
        """Nothing is left that the leases asked for would run: left waiting, they would stand in others' way."""
        effects.append(Send(self.raylet, ReturnLeases(sorted(queue.requests))))
        for lease in queue.requests:
            del self.requests[lease]  # a grant that is on its way goes back
        queue.requests.clear()

    def _unstick(self, queue: Queue, now: float, effects: list[Effect]) -> None:
        """A task that takes longer than those before it must not hold up those that were pushed behind it."""
        while (stuck := queue.leases.next_stuck()) is not None:
            due, lease = stuck
            if now < due:
                self._wake_at(due, effects)
                return
            lease.stealing = lease.blocked = True  # blocked until it answers: not to be given them back
            queue.leases.note(lease)
            effects.append(Send(lease.worker, StealTasks(len(lease.inflight) - 1)))

    def _lend_to_sibling(self, lease: Lease, now: float, effects: list[Effect]) -> bool:
        queues = lease.queue.shape.queues
        near = queues.get(node_of(lease.worker))
        for sibling in queues.values() if near is None else (near, *queues.values()):
            if sibling.tasks and (sibling is near or self._worth_it(sibling, now, effects)):
                lease.queue.leases.remove(lease)
                lease.queue = sibling
                sibling.leases.add(lease)
                self.touched[sibling] = None
                return True
        return False

    def _worth_it(self, queue: Queue, now: float, effects: list[Effect]) -> bool:
        """Whether its next task is done sooner far from its arguments than it would begin where they lie. Nobody knows
        when a worker comes that was asked for: it is given as long as the arguments would take."""
        workers = queue.leases.open
        if queue.prefer is None or not (workers or queue.requests):
            return True
        pull_s = self._lying(queue.tasks[0]).get(queue.prefer, 0) / self.limits.pull_bytes_s
        if workers:
            return len(queue.tasks) * (queue.shape.mean_s or 0.0) / workers > pull_s
        if now < queue.asked_at + pull_s:
            self._wake_at(queue.asked_at + pull_s, effects)
            return False
        return True

    def _steal(self, queue: Queue, effects: list[Effect]) -> None:
        loaded = queue.leases.most_loaded() if queue.leases.loaded else None
        if loaded is not None and not loaded.stealing:
            loaded.stealing = True
            queue.leases.note(loaded)
            effects.append(Send(loaded.worker, StealTasks(len(loaded.inflight) // 2)))

    def _give_back(self, lease: Lease, effects: list[Effect]) -> None:
        self._forget(lease)
        wears = lease.queue.shape.max_calls
        if wears and lease.left > 0:
            self.worn[lease.worker] = lease.left, lease.queue.shape
        raylet = raylet_of(node_of(lease.worker))
        worn_out = wears and not lease.left
        effects.append(Send(raylet, RetireWorkers([lease.id]) if worn_out else ReturnLeases([lease.id])))

    def _forget(self, lease: Lease) -> None:
        del self.leases[lease.id]
        self.by_worker.pop(lease.worker, None)
        lease.queue.leases.remove(lease)
        self.touched[lease.queue] = None

    def _wake_at(self, at: float, effects: list[Effect]) -> None:
        if self._wake is None or at < self._wake:
            self._wake = at
            effects.append(WakeAt(at))

    def granted(self, sender: ProcessId, message: LeaseGranted, now: float, effects: list[Effect]) -> None:
        queue = self.requests.pop(message.lease, None)
        if queue is None:
            known = self.leases.get(message.lease)
            if known is None or known.worker != message.worker:  # asked twice, or not needed any more
                effects.append(Send(sender, ReturnLeases([message.lease])))
            return
        queue.requests.discard(message.lease)
        near = queue.shape.queues.get(node_of(message.worker)) if queue.prefer else None
        if near is not None and near.tasks and near is not queue:
            self.touched[queue] = None
            queue = near  # it was asked for to be elsewhere
        lease = Lease(message.lease, message.worker, queue, now)
        if queue.shape.max_calls:
            left, shape = self.worn.pop(lease.worker, (0, None))
            lease.left = left if shape is queue.shape else queue.shape.max_calls
        elif queue.shape.per_lease:
            lease.left = queue.shape.per_lease
        self.leases[lease.id] = self.by_worker[lease.worker] = lease
        queue.leases.add(lease)
        self.touched[queue] = None
        group = membership(queue.shape.where)
        if self.groups.get(lease.worker, NO_GROUP) != group:
            self.groups[lease.worker] = group
            effects.append(Send(lease.worker, SetGroup(*group)))
        if not queue.tasks and len(queue.leases) > 1:
            self._give_back(lease, effects)  # came too late to be of use

    def refused(self, message: LeaseRefused, effects: list[Effect]) -> None:
        queue = self.requests.pop(message.lease, None)
        if queue is None:
            return
        queue.requests.discard(message.lease)
        self.touched[queue] = None  # its shape is hungry again
        self._refuse(queue, (FAILED, message.kind, message.why), effects)

    def _drop_if_done(self, shape: Shape) -> None:
        """Groups come and go: their shapes must not stay for ever."""
        if not any(queue.leases or queue.requests for queue in shape.queues.values()):
            self.shapes = {key: other for key, other in self.shapes.items() if other is not shape}

    def _refuse(self, queue: Queue, failure: Value, effects: list[Effect]) -> None:
        tasks, queue.tasks = queue.tasks, deque()
        for task in tasks:
            self.book.answer(task, [failure] * len(task.returns), effects)

    def reclaim(self, message: ReclaimLeases) -> None:
        for lease_id in message.leases:
            lease = self.leases.get(lease_id)
            if lease is not None:
                lease.reclaimed = True
                self._note(lease)

    def lost(self, sender: ProcessId, message: LeaseLost, effects: list[Effect]) -> None:
        queue = self.requests.pop(message.lease, None)
        if queue is not None:  # its grant is still on the way to us
            queue.requests.discard(message.lease)
            self.touched[queue] = None
        lease = self.leases.get(message.lease)
        if lease is not None and node_of(lease.worker) == node_of(sender):  # else of a second grant, which went back
            self.lose(lease, message.why, effects, message.kind)

    def lose(
        self, lease: Lease, why: str, effects: list[Effect], kind: str = "WorkerCrashedError", planned: bool = False
    ) -> None:
        """The worker died. The oldest unanswered task ran, or one behind it did.

        From now on the oldest one runs alone, and those behind it so that the next death tells which one it was.
        """
        self._forget(lease)
        self.forget_worker(lease.worker)
        stored = [result for task in lease.inflight.values() for result in task.results()]
        if stored:
            effects.append(Send(raylet_of(node_of(lease.worker)), FreeObjects(stored)))
        again: list[Task] = []
        for position, task in enumerate(lease.inflight.values()):
            if task.stream is not None:
                self.book.streams.lost(task.stream, node_of(lease.worker))
            if task.cancelled:
                failure = (FAILED, "TaskCancelledError", f"{task.function.name}() was cancelled")
                self.book.answer(task, [failure] * len(task.returns), effects)
                continue
            if position == 0 and kind == "OutOfMemoryError":
                if not self._again_after_oom(task):
                    kills = self._oom_kills.pop(task.count, 1)
                    times = f" {kills} times (setting task_oom_retries: {self.limits.oom_retries})" if kills > 1 else ""
                    sentence = f"the worker that ran {task.function.name}() was ended{times} to save memory: {why}"
                    self.book.answer(task, [(FAILED, kind, sentence)] * len(task.returns), effects)
                    continue
            elif position == 0 and task.retries == 0:
                sentence = (
                    f"the worker that ran {task.function.name}() ended before it answered ({why}), and no retry is "
                    f"left. Raise max_retries, or look at the worker's log for why it died."
                )
                self.book.answer(task, [(FAILED, "WorkerCrashedError", sentence)] * len(task.returns), effects)
                continue
            elif position == 0 and task.retries > 0 and not planned:
                task.retries -= 1
            task.careful = True
            task.solo = task.solo or position == 0
            again.append(task)
        lease.inflight.clear()
        lease.queue.tasks.extendleft(reversed(again))

    def forget_worker(self, worker: ProcessId) -> None:
        """It is dead."""
        self.taught.pop(worker, None)
        self.worn.pop(worker, None)
        self.groups.pop(worker, None)

    def _again_after_oom(self, task: Task) -> bool:
        """Whether it is run once more. These retries are counted apart from those after crashes."""
        if task.retries == 0:
            return False
        self._oom_kills = {count: kills for count, kills in self._oom_kills.items() if count in self.book.tasks}
        kills = self._oom_kills[task.count] = self._oom_kills.get(task.count, 0) + 1
        return self.limits.oom_retries < 0 or kills <= self.limits.oom_retries

    def returned(self, sender: ProcessId, message: TasksReturned) -> None:
        """Stolen, or pushed behind a task that now waits: to the front of the queue again."""
        lease = self.by_worker.get(sender)
        if lease is None:
            return
        lease.stealing = False
        lease.blocked = lease.blocked or message.blocked
        back = [task for count in message.counts if (task := lease.inflight.pop(count, None)) is not None]
        lease.queue.tasks.extendleft(reversed(back))
        if lease.left >= 0:
            lease.left += len(back)
        self._note(lease)

    def node_gone(self, node: NodeId, why: str, effects: list[Effect], planned: bool = False) -> None:
        """
        Args:
            planned: it was drained: no retry is counted.
        """
        for lease in [lease for lease in self.leases.values() if node_of(lease.worker) == node]:
            self.lose(lease, f"its node {node.hex()} died: {why}", effects, planned=planned)
        self.ask_again(effects)  # requests may have been queued there

    def ask_again(self, effects: list[Effect]) -> None:
        """For what is not granted yet, under the same ids; a double grant goes back."""
        again: dict[Queue, list[LeaseId]] = {}
        for lease_id, queue in self.requests.items():
            again.setdefault(queue, []).append(lease_id)
        for queue, leases in again.items():
            effects.append(Send(self.raylet, _asking(leases, queue, None)))


def _asking(leases: list[LeaseId], queue: Queue, lying: Mapping[NodeId, int] | None) -> RequestLeases:
    shape = queue.shape
    there = lying or {}
    prefer = sorted(there, key=lambda node: (node != queue.prefer, -there[node]))[:_TOLD] if there else []
    return RequestLeases(
        leases,
        shape.resources,
        prefer,
        env=shape.env,
        retriable=not shape.fresh,
        priority=shape.priority,
        name=queue.tasks[0].function.name if queue.tasks else "",
        where=shape.where,
        lying=[there[node] for node in prefer] if prefer else (),
    )
