"""A driver of the simulator: several pieces of user code that make tasks, actors and objects by dice, and look at each
result that they get: it has to be what was to be expected, or the right error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from sparkray_core.ids import HEAD, NodeId, ProcessId
from sparkray_core.messages import Answer, Message, RegisterJob
from sparkray_core.model.effects import Send
from sparkray_core.model.gangs import STRATEGIES
from sparkray_core.model.resources import from_floats
from sparkray_core.model.where import ANY_BUNDLE, GROUP, NODE, SPREAD
from sparkray_core.testing.sim_core import Code, Got, Ledger, Memory, ProcessEffect, Ref, Signal, SimCore
from sparkray_core.testing.sim_programs import ACTOR, Expected, Program, expect, expect_items
from sparkray_core.testing.sim_spark import SimSpark, deliver
from sparkray_core.testing.sim_streams import call_generator

HEAVIEST = 40  # values nested in an argument: tasks that hand back what they opened would double that each time
LONG_S = 0.2  # that a task runs which is to be cancelled as it runs
RUN_LOOKS = 30  # for one of them to run
SIZES = [0, 0, 0, 10, 5000, 30_000]  # bytes; 0: inline


Made = tuple[ProcessId, int]  # whose task, its number


@dataclass(slots=True)
class Known:
    """A reference that the user code holds, and what it must turn out to be."""

    ref: Ref
    expected: Expected
    made_by: str
    doomed: bool = False  # its actor is to die: its calls may fail
    hangs_on: frozenset[Made] = frozenset()  # which tasks, itself included, were its makers
    cancellable: bool = False


def made(ref: Ref) -> Made:
    return ref.entry.owner, ref.entry.count


def makers(*some: Known) -> frozenset[Made]:
    return frozenset().union(*(known.hangs_on for known in some))


@dataclass(slots=True)
class Oracle:
    """What all drivers of a session share."""

    ledger: Ledger
    harmed: bool = False  # something went wrong: any object may have got lost
    kills: bool = False  # workers are killed
    wrong: list[str] = field(default_factory=list)
    judged: int = 0
    cancelled: set[Made] = field(default_factory=set)
    # In hexadecimal: the GCS had not been told of these when their owners' node died. Nobody can make them any more.
    unrecorded: set[str] = field(default_factory=set)

    def judge(self, known: Known, got: Got) -> None:
        self.judged += 1
        if got.outcome == known.expected.outcome:
            return
        maker = made(known.ref)
        if maker in self.cancelled and got.outcome.startswith("system TaskCancelledError"):
            return
        if got.outcome.startswith("system"):
            no_room = "ObjectStoreFull" in got.outcome or "no room" in got.outcome
            # With an actor ends what it owns, and with the worker that it had on lease what that one owns. So does a
            # placement group end the workers that run its tasks, with what they own from before.
            by_group = "remove_placement_group() was called" in got.outcome
            owner_ends = bool(self.ledger.actors) or by_group
            lost = owner_ends and got.outcome.startswith(("system OwnerDied", "system ObjectLost"))
            # An environment is not set up again if that worker ended: it may be what has ended it.
            set_up = self.kills and "the worker that set it up ended: killed" in got.outcome
            never_told = "OwnerDied" in got.outcome and any(some in got.outcome for some in self.unrecorded)
            other = any(one in self.cancelled for one in known.hangs_on if one != maker)
            if other or self.harmed or known.doomed or no_room or lost or set_up or never_told:
                return
        self.wrong.append(f"it is {got.outcome}, and was to be {known.expected.outcome}: {known.made_by}")

    def judge_end(self, missing: list[Expected], made_by: str) -> None:
        """A stream is over, and these were still to come. Whatever goes wrong, a failure is then the last item."""
        self.judged += 1
        if missing:
            self.wrong.append(f"{len(missing)} items are missing: {made_by}")


class SimDriver(SimCore):
    role = "driver"

    def __init__(
        self,
        me: ProcessId,
        segment: Memory,
        ledger: Ledger,
        oracle: Oracle,
        dice: Random,
        actors: bool,
        durable: bool = False,
        puts: bool = True,
    ) -> None:
        """
        Args:
            durable: whatever it makes could be made again, should a worker or a node without a driver die.
            puts: its tasks put objects, which die with their node.
        """
        super().__init__(me, segment, ledger)
        self.durable = durable
        self.puts = puts
        self.oracle = oracle
        self.dice = dice
        self.actors = actors  # it makes some
        self.nodes: list[NodeId] = []  # if it is particular about where its tasks run; and makes placement groups
        self.spark: SimSpark | None = None  # if it has blocks from there
        self.wide = False  # some of its tasks take two CPUs
        self.cancels = False  # it cancels some of its tasks, and has little patience with others
        self.force = False  # it has workers killed for that
        self.busy = 0  # pieces of user code that are not done
        self._registered = False
        self._unregistered: list[Signal] = []  # pieces of user code that wait for that

    def start(self, now: float) -> list[ProcessEffect]:
        effects = super().start(now)
        return [*effects, Send(HEAD, RegisterJob(0, {}))]

    def on_message(self, sender: ProcessId, message: Message) -> bool:
        if not isinstance(message, Answer):
            return False
        self._registered = True
        for signal in self._unregistered:
            signal.entry_ready(None)
        self._unregistered.clear()
        return True

    def begin(self, at: float, steps: int) -> None:
        """A piece of user code, from then on."""
        self.busy += 1
        code = self._life(steps)
        self.at(at, lambda: self.advance(code))

    # ------------------------------------------------------------------ user code
    def _life(self, steps: int) -> Code[None]:
        dice = self.dice
        pool: list[Known] = []
        if not self._registered:  # as `init` waits: until then the head knows of no heir for what its workers own
            self._unregistered.append(Signal(self))
            yield self._unregistered[-1]
        for _ in range(steps):
            if self.owner.ended is not None:
                break
            if self.spark is not None and dice.random() < 0.15:
                yield from self._blocks(self.spark, pool)
                continue
            if self.cancels and dice.random() < 0.25:
                yield from self._lose_patience(pool)
                continue
            kind = dice.random()
            if kind < 0.10 and self.nodes:
                self._group(pool)
            elif kind < 0.40:
                self._tasks(pool)
            elif kind < 0.52:
                (self._actor if self.actors else self._tasks)(pool)
            elif kind < 0.62:
                inner = self._pick(pool, 2)
                key = dice.getrandbits(32)
                ref = yield from self.put(f"value {key}", dice.choice(SIZES), [known.ref for known in inner])
                expected = Expected(f"value {key}", tuple(one.expected for one in inner))
                doomed, hangs_on = any(one.doomed for one in inner), makers(*inner)
                pool.append(Known(ref, expected, f"put {key}", doomed, hangs_on))
                del ref, inner
            elif kind < 0.75:
                del pool[: dice.randint(0, len(pool))]
            elif kind < 0.85:
                yield dice.choice([0.0, 0.001, 0.02, 0.3])
            elif kind < 0.9 and pool:
                entries = [known.ref.entry for known in pool if known.expected is not ACTOR]
                if entries:
                    yield from self.wait(entries, dice.randint(1, len(set(entries))))
                del entries
            elif kind < 0.95:
                yield from self._look(pool[-dice.randint(1, 6) :], dice.random() < 0.5)
            else:
                yield from self._stream(pool)
        yield from self._look(pool, True)
        pool.clear()
        self.busy -= 1

    def _look(self, some: list[Known], deeper: bool) -> Code[None]:
        """Get these, and (having let go of the rest of them) what is inside them."""
        some = [known for known in some if known.expected is not ACTOR]
        if not some:
            return
        gots = yield from self.get([known.ref for known in some])
        within = self._judge(some, gots)
        gots.clear()
        some.clear()
        if within and deeper:
            yield self.dice.choice([0.0, 0.01, 0.5])
            yield from self._look(within, True)

    def _judge(self, some: list[Known], gots: list[Got]) -> list[Known]:
        """Returns what is inside them."""
        within: list[Known] = []
        for known, got in zip(some, gots, strict=True):
            self.oracle.judge(known, got)
            if got.good:
                inside = zip(got.refs, known.expected.inside, strict=True)
                why, hangs_on = f"inside {known.made_by}", known.hangs_on
                within += [Known(ref, one, why, known.doomed, hangs_on | {made(ref)}) for ref, one in inside]
        return within

    def _tasks(self, pool: list[Known], run_s: float = 0.0) -> None:
        """
        Args:
            run_s: it runs so long, at least; and keeps what it gets.
        """
        dice = self.dice
        program = self._program(2)
        if run_s:
            program = replace(program, run_s=max(run_s, program.run_s), keeps_s=1.0)
        if self.nodes and dice.random() < 0.3:
            node = dice.choice(self.nodes)
            program = replace(
                program, where=dice.choice([(SPREAD, ()), (NODE, node, True, dice.random() < 0.5, False)])
            )
        for _ in range(dice.choice([1, 1, 2, 5, 20])):
            args = [known for known in self._pick(pool, 2) if known.expected is not ACTOR]
            inner = self._pick(pool, 2) if run_s or dice.random() < 0.3 else []
            expected = expect(program, [one.expected for one in args], [one.expected for one in inner])
            refs = self.submit(program, [one.ref for one in args], [one.ref for one in inner])
            doomed, hangs_on = any(one.doomed for one in [*args, *inner]), makers(*args, *inner) | {made(refs[0])}
            pool += [
                Known(ref, one, f"task {ref.entry.count} {program}", doomed, hangs_on, True)
                for ref, one in zip(refs, expected, strict=True)
            ]

    def _group(self, pool: list[Known]) -> None:
        """A placement group, what runs in it, and its end some time later."""
        dice = self.dice
        bundles = [from_floats({"CPU": dice.choice([0.5, 1, 1, 2])}) for _ in range(dice.randint(1, 4))]
        group = self.create_group(bundles, dice.choice(STRATEGIES))
        if dice.random() < 0.5:
            pool.append(Known(self.group_ready(group), Expected("value ready"), "a group is ready", True))
        for _ in range(dice.choice([0, 1, 3, 10])):
            where = (GROUP, group, dice.choice([ANY_BUNDLE, ANY_BUNDLE, dice.randrange(len(bundles))]), False)
            program = replace(self._program(1), where=where, max_calls=0)
            args = [known for known in self._pick(pool, 1) if known.expected is not ACTOR]
            expected = expect(program, [one.expected for one in args], [])
            if self.actors and dice.random() < 0.2:
                handle = self.create(replace(program, fails=False, children=(), opens=False), [], dice.choice([0, 1]))
                ref = self.call(handle, call := self._program(1))[0]
                pool.append(Known(ref, expect(call, [], [])[0], f"call {ref.entry.count} {call}", True))
                continue
            refs = self.submit(program, [one.ref for one in args])
            made_by = f"task {refs[0].entry.count} {program}"
            pool += [Known(ref, one, made_by, True) for ref, one in zip(refs, expected, strict=True)]
        self.at(self.now + dice.choice([0.0, 0.01, 0.3, 2.0]), lambda: self.remove_group(group))

    def _blocks(self, spark: SimSpark, pool: list[Known]) -> Code[None]:
        """A partition of Spark."""
        dice = self.dice
        outcomes = [f"value {dice.getrandbits(32)}" for _ in range(dice.choice([1, 1, 2, 4]))]
        refs = yield from deliver(self, spark, outcomes, dice.choice([2000, 5000, 30_000]))
        pool += [
            Known(ref, Expected(outcome), f"a block of Spark {ref.entry.id.hex()}")
            for ref, outcome in zip(refs, outcomes, strict=False)  # there are none where they found no room
        ]
        refs.clear()

    def _stream(self, pool: list[Known]) -> Code[None]:
        """A task or a call that yields: read some or all of it, and let go of the rest."""
        dice = self.dice
        items = dice.choice([0, 1, 2, 5, 20])
        program = replace(self._program(0), items=items)
        args = [known for known in self._pick(pool, 1) if known.expected is not ACTOR]
        inner = self._pick(pool, 1) if dice.random() < 0.5 else []
        handles = [known for known in pool if known.expected is ACTOR]
        on = [dice.choice(handles)] if handles and dice.random() < 0.5 else []
        expected = expect_items(program, [one.expected for one in args], [one.expected for one in inner])
        doomed, hangs_on = any(one.doomed for one in [*args, *inner, *on]), makers(*args, *inner, *on)
        arguments = [one.ref for one in args], [one.ref for one in inner]
        generator = call_generator(self, program, *arguments, dice.choice([0, 0, 1, 3]), on[0].ref if on else None)
        del args, inner, handles, on, arguments
        made_by = f"stream {generator.stream.count} {program}"
        for _ in range(dice.choice([0, 1, items // 2, items + 2, items + 2])):
            ref = yield from generator.next()
            if ref is None:
                lost = self.owner.ended is not None or not self.oracle.cancelled.isdisjoint(hangs_on)
                self.oracle.judge_end([] if lost else expected, made_by)
                return
            known = Known(ref, expected.pop(0) if expected else Expected("the end"), made_by, doomed, hangs_on)
            del ref
            (got,) = yield from self.get([known.ref])
            self.oracle.judge(known, got)
            if got.outcome.startswith("system"):
                return  # that is the last of it, or it is one that got lost
            if dice.random() < 0.3:
                pool.append(known)
            del known, got
            yield dice.choice([0.0, 0.0, 0.001, 0.05])

    def _actor(self, pool: list[Known]) -> None:
        dice = self.dice
        kind = dice.random()
        run_s, env = dice.choice([0.001, 0.1]), dice.choice(["", "", "red"])
        constructor = Program(dice.getrandbits(16), run_s=run_s, fails=kind < 0.1, env=env)
        inner = [known for known in self._pick(pool, 1) if known.expected is not ACTOR]
        unordered = dice.random() < 0.3
        handle = self.create(constructor, [one.ref for one in inner], dice.choice([0, 1, -1]), unordered)
        doomed, of_actor = kind < 0.25, makers(*inner)
        for _ in range(dice.choice([0, 1, 3, 20])):
            program = self._program(1)
            if unordered:  # it must not wait for a call of the same actor: that one may be behind it by now
                program = replace(program, opens=False, shares=False, asks=None)
            args = [known for known in self._pick(pool, 1) if known.expected is not ACTOR]
            inner = self._pick(pool, 1)
            expected = expect(program, [one.expected for one in args], [one.expected for one in inner])
            refs = self.call(handle, program, [one.ref for one in args], [one.ref for one in inner])
            tainted = doomed or any(one.doomed for one in [*args, *inner])
            hangs_on = of_actor | makers(*args, *inner) | {made(refs[0])}
            pool += [
                Known(ref, one, f"call {ref.entry.count} {program}", tainted, hangs_on, True)
                for ref, one in zip(refs, expected, strict=True)
            ]
        if 0.1 <= kind < 0.25:
            self.kill(handle, restart=dice.random() < 0.5)
        elif not doomed and dice.random() < 0.6:
            pool.append(Known(handle, ACTOR, "an actor", hangs_on=of_actor))

    def _lose_patience(self, pool: list[Known]) -> Code[None]:
        """Cancel a task, or wait for some with a limit and forget about them."""
        dice = self.dice
        long = dice.random() < 0.4
        if long:
            self._tasks(pool, LONG_S)
        some = [known for known in pool if known.cancellable]
        if some and (long or dice.random() < 0.7):
            self.kick()
            runs: list[Known] = []
            for _ in range(RUN_LOOKS if long else 1):
                yield dice.choice([0.0, 0.001, 0.02, 0.1])  # so that some run by then
                runs = [one for one in some if self.oracle.ledger.runs(one.ref.entry.owner, one.ref.entry.count)]
                if runs:
                    break
            entry, recursive = dice.choice(runs or some[-8:]).ref.entry, dice.random() < 0.5
            task = self.owner.book.tasks.get(entry.count)
            force = self.force and task is not None and task.actor is None and dice.random() < 0.3
            self.oracle.cancelled.add((entry.owner, entry.count))
            self.oracle.harmed |= force  # what its worker owned, ends with it
            self.cancel(entry.count, force, recursive)
            del entry, task, some, runs
            if long:
                del pool[: dice.randint(0, len(pool))]
            yield dice.choice([0.0, 0.001, 0.05])
            return
        del some
        entries = [known.ref.entry for known in pool[-6:] if known.expected is not ACTOR]
        if entries:
            yield from self.wait(entries, len(set(entries)), dice.choice([0.0, 0.001, 0.02, 0.3]))
            del entries
            if dice.random() < 0.3:
                del pool[-6:]

    def _pick(self, pool: list[Known], most: int) -> list[Known]:
        """Lately made ones, mostly."""
        some = [pool[-1 - int(len(pool) * self.dice.random() ** 3)] for _ in range(self.dice.randint(0, most)) if pool]
        return [known for known in some if known.expected.weight <= HEAVIEST]

    def _program(self, depth: int) -> Program:
        dice = self.dice
        children: tuple[Program, ...] = ()
        if depth and dice.random() < 0.25:
            children = tuple(self._program(depth - 1) for _ in range(dice.randint(1, 3)))
        program = Program(
            key=dice.getrandbits(16),
            run_s=dice.choice([0.0, 0.00001, 0.0002, 0.01, 0.3]),
            size=dice.choice(SIZES),
            fails=dice.random() < 0.05,
            returns=1 if depth < 2 or dice.random() < 0.8 else 2,
            retries=dice.choice([3, 3, 3, 1, 0, -1]),
            again=dice.choice([0, 0, 1, -1]),
            cpus=dice.choice([1, 1, 1, 0.5, 0]),
            env=dice.choice([""] * 8 + ["red", "blue"]),
            priority=dice.choice([0, 0, 0, 0, 1, -1]),
            max_calls=dice.choice([0, 0, 0, 0, 1, 3]),
            opens=dice.random() < 0.3,
            children=children,
            shares=dice.random() < 0.5,
            keeps_s=dice.choice([0, 0, 0, 0.01, 1.0]),
            hands_back=dice.random() < 0.3,
            gives=self._program(0) if depth and dice.random() < 0.15 else None,
            puts=dice.choice(SIZES) if dice.random() < 0.15 else -1,
            asks=self._program(0) if depth and dice.random() < 0.5 else None,
        )
        if self.wide and dice.random() < 0.15:
            program = replace(program, cpus=2)
        if self.durable:
            program = replace(program, retries=-1, again=-1)
            if depth and program.gives is None and dice.random() < 0.3:
                program = replace(program, gives=self._program(0))
            if program.gives is not None and dice.random() < 0.5:
                program = replace(program, feeds=self._program(0))
        if self.ledger.copies > 1 and dice.random() < 0.5:
            program = replace(program, puts=dice.choice(SIZES))
        if not self.puts:
            program = replace(program, puts=-1, size=program.size or 2000)
        return program
