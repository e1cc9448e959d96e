"""Schedulers beside the head: what each party does when one comes, places, errs and goes."""

from __future__ import annotations

from sparkray_core.ids import HEAD, HEAD_NODE, LeaseId, NodeId, ProcessId, new_scheduler_id, raylet_of
from sparkray_core.messages import (
    EndSession,
    JoinScheduler,
    LeaseGranted,
    LeaseLost,
    Loads,
    Message,
    NodeBeat,
    NodeGone,
    NodeTable,
    PlaceLeases,
    ProcessGone,
    RegisterProcess,
    RequestLeases,
    Resources,
    ReturnLeases,
    SchedulerGone,
    SchedulerTable,
)
from sparkray_core.model.effects import ConnectPeer, Effect, ForgetPeer, Send, SendFrom, Stop
from sparkray_core.model.events import ClockTicked, PeerLost, Received
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.node import Node
from sparkray_core.model.scheduler import Scheduler
from sparkray_core.store.allocator import Allocator
from sparkray_core.testing.builders import lease_id, node_id, node_info, process_id
from tests.model.test_owner import OTHER_NODE, REMOTE, Bench, asks_for
from tests.model.test_owner import lease_id as owner_s_lease

A, B = node_id("a"), node_id("b")
DRIVER = process_id(A, "driver")
CPU = {"CPU": 1000}
ONE, OTHER = NodeId(b"\0sch1111"), NodeId(b"\0sch2222")
ADDRESS = "tcp://127.0.0.1:7"


def asks(*numbers: int, where: tuple[object, ...] = ()) -> RequestLeases:
    return RequestLeases([lease_id(DRIVER, number) for number in numbers], CPU, [], where=where)


def placed(*numbers: int) -> PlaceLeases:
    return PlaceLeases(DRIVER, [lease_id(DRIVER, number) for number in numbers], CPU, [], "", True, 0, "", ())


def leases(*numbers: int) -> list[LeaseId]:
    return [lease_id(DRIVER, number) for number in numbers]


class World:
    """A scheduler that knows two nodes, of two CPUs each."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(ONE, ADDRESS)
        self.started = self.scheduler.start(0.0)
        self.infos = {node: node_info(letter, CPU=2) for node, letter in ((A, "a"), (B, "b"))}
        self.hear(HEAD, NodeTable([info.as_dict() for info in self.infos.values()]))

    def hear(self, sender: ProcessId, message: Message, now: float = 0.1) -> list[Effect]:
        effects = self.scheduler.handle(Received(sender, message), now)
        check(self.scheduler)
        return effects

    def load(self, node: NodeId, free: int, queued: int, arrived: int, settled: int) -> list[Effect]:
        return self.hear(HEAD, Loads([(node, {"CPU": 1000 * free}, queued, 0.01, {}, arrived, settled)]))


# ---------------------------------------------------------------------------------- the scheduler
def test_it_joins_says_so_again_with_each_beat_and_connects_to_the_nodes() -> None:
    scheduler = Scheduler(ONE, ADDRESS)
    beat_s = scheduler.limits.scheduler_beat_s
    assert scheduler.start(0.0)[0] == Send(HEAD, JoinScheduler(ADDRESS, 0))
    assert Send(HEAD, JoinScheduler(ADDRESS, 0)) in scheduler.handle(ClockTicked(), beat_s)
    infos = [node_info("a", CPU=2), node_info("b", CPU=2)]
    table = NodeTable([info.as_dict() for info in infos])
    assert scheduler.handle(Received(HEAD, table), beat_s) == [ConnectPeer(info.node, info.address) for info in infos]


def test_it_places_where_there_is_room_and_counts_what_it_has_placed() -> None:
    world = World()
    assert world.hear(DRIVER, asks(1, 2, 3)) == [Send(raylet_of(A), placed(1, 3)), Send(raylet_of(B), placed(2))]
    assert world.hear(DRIVER, asks(4)) == [Send(raylet_of(B), placed(4))]
    assert world.scheduler.decisions == 4

    world.load(A, 1, 0, 1, 1)  # lease 3 had not arrived there yet
    assert list(world.scheduler.placed) == leases(3, 2, 4)
    world.load(A, 0, 0, 2, 2)
    assert list(world.scheduler.placed) == leases(2, 4)


def test_what_it_cannot_decide_goes_to_the_head() -> None:
    world = World()
    too_much = RequestLeases(leases(1), {"CPU": 3000}, [])
    assert world.hear(DRIVER, too_much) == [SendFrom(HEAD, DRIVER, too_much)]
    not_here = asks(2, where=("node", node_id("z"), False, False, False))
    assert world.hear(DRIVER, not_here) == [SendFrom(HEAD, DRIVER, not_here)]
    assert world.hear(DRIVER, ReturnLeases(leases(1))) == [SendFrom(HEAD, DRIVER, ReturnLeases(leases(1)))]
    assert world.scheduler.decisions == 0


def test_what_is_not_needed_any_more_is_taken_back_where_it_waits() -> None:
    world = World()
    world.hear(DRIVER, asks(1))
    assert world.hear(DRIVER, ReturnLeases(leases(1))) == [SendFrom(raylet_of(A), DRIVER, ReturnLeases(leases(1)))]
    assert not world.scheduler.placed


def test_what_is_asked_again_is_sent_where_it_was_until_that_node_dies_then_it_is_placed_elsewhere() -> None:
    """The node may have sent it on meanwhile, by way of the head, to another one; and that has died."""
    world = World()
    world.hear(DRIVER, asks(1, 2, 3))
    assert world.hear(DRIVER, asks(2)) == [Send(raylet_of(B), placed(2))]
    assert world.hear(HEAD, NodeGone(B, "power cut")) == [ForgetPeer(B), Send(raylet_of(A), placed(2))]
    assert world.hear(DRIVER, asks(2)) == [Send(raylet_of(A), placed(2))]
    assert world.scheduler.decisions == 4


def test_nothing_is_placed_for_the_dead() -> None:
    world = World()
    other = process_id(B, "other")
    mine = RequestLeases([lease_id(other, 1)], CPU, [A])
    assert len(world.hear(other, mine)) == 1
    world.hear(HEAD, NodeGone(B, "power cut"))
    assert not world.scheduler.placed
    assert world.hear(other, mine) == []
    world.hear(DRIVER, asks(1))
    world.hear(HEAD, ProcessGone(DRIVER, "killed"))
    assert world.hear(DRIVER, asks(2)) == []
    assert not world.scheduler.placed


def test_it_ends_with_the_session_and_when_it_is_given_up() -> None:
    assert World().hear(HEAD, EndSession("done")) == [Stop("done")]
    world = World()
    assert world.hear(HEAD, NodeGone(ONE, "silent")) == [Stop("the master gave this scheduler up: silent")]
    assert not world.scheduler.session_ended
    lost = World().scheduler.handle(PeerLost(HEAD_NODE, "silent for 5 s"), 1.0)
    assert lost[0] == Stop("the master is gone: silent for 5 s")


def test_ids_of_schedulers_are_no_node_s() -> None:
    assert new_scheduler_id() != new_scheduler_id()
    assert new_scheduler_id() != HEAD_NODE


# ---------------------------------------------------------------------------------- the head
class HeadWorld:
    def __init__(self) -> None:
        self.head = Head("s", HeadLimits(table_gap_s=0.0, tables_per_s=float("inf")))
        self.head.start(0.0)
        for letter in ("a", "b"):
            info = node_info(letter, CPU=2)
            self.hear(raylet_of(info.node), info.join())

    def hear(self, sender: ProcessId, message: Message, now: float = 0.1) -> list[Effect]:
        return self.handle(Received(sender, message), now)

    def handle(self, event: Received | PeerLost | ClockTicked, now: float = 0.1) -> list[Effect]:
        effects = self.head.handle(event, now)
        check(self.head)
        return [effect for effect in effects if isinstance(effect, Send | SendFrom | ConnectPeer | ForgetPeer)]

    def table(self, *schedulers: NodeId) -> list[Effect]:
        known = SchedulerTable([(one, ADDRESS) for one in schedulers])
        return [Send(raylet_of(node), known) for node in (A, B)]


def test_the_head_tells_a_scheduler_of_the_nodes_and_the_nodes_of_it() -> None:
    world = HeadWorld()
    heard = world.hear(raylet_of(ONE), JoinScheduler(ADDRESS, 0))
    free = {"CPU": 2000}
    rows: list[tuple[NodeId, Resources, int, float, Resources, int, int]]
    rows = [(node, free, 0, 0.0, {}, 0, 0) for node in (A, B)]
    nodes = world.head.nodes.table()
    me = raylet_of(ONE)
    assert heard == [ConnectPeer(ONE, ADDRESS), Send(me, nodes), Send(me, Loads(rows)), *world.table(ONE)]
    assert world.hear(raylet_of(ONE), JoinScheduler(ADDRESS, 7)) == []
    assert world.head._answer("schedulers") == [(ONE, 7)]


def test_what_nodes_report_is_passed_on_together_each_scheduler_s_own_counters() -> None:
    world = HeadWorld()
    for one in (ONE, OTHER):
        world.hear(raylet_of(one), JoinScheduler(ADDRESS, 0))
    assert world.hear(raylet_of(A), NodeBeat({"CPU": 1000}, 0, 0.5, 9, 9, CPU, {ONE: (3, 2)})) == []
    world.hear(raylet_of(B), NodeBeat({"CPU": 0}, 4, 0.5, 9, 9, {}, {ONE: (1, 1), OTHER: (5, 4)}))
    assert world.handle(ClockTicked(), 0.1 + world.head.limits.loads_gap_s) == [
        Send(raylet_of(ONE), Loads([(A, {"CPU": 1000}, 0, 0.5, CPU, 3, 2), (B, {"CPU": 0}, 4, 0.5, {}, 1, 1)])),
        Send(raylet_of(OTHER), Loads([(A, {"CPU": 1000}, 0, 0.5, CPU, 0, 0), (B, {"CPU": 0}, 4, 0.5, {}, 5, 4)])),
    ]


def test_a_scheduler_whose_connection_broke_that_is_silent_or_out_of_reach_is_dropped() -> None:
    for how in ("broke", "silent", "missed"):
        world = HeadWorld()
        world.hear(raylet_of(ONE), JoinScheduler(ADDRESS, 0))
        if how == "broke":
            heard = world.handle(PeerLost(ONE, "its connection broke"))
        elif how == "missed":
            heard = world.hear(raylet_of(B), NodeGone(ONE, "silent"))
        else:
            heard = []
            for quarter in range(1, 13):  # of a second
                for node in (A, B):
                    heard += world.hear(raylet_of(node), NodeBeat(CPU, 0, 0.0), 0.25 * quarter)
                heard += world.handle(ClockTicked(), 0.25 * quarter)
        assert [effect for effect in heard if isinstance(effect, ForgetPeer)] == [ForgetPeer(ONE)], how
        assert [one for one in heard if isinstance(getattr(one, "message", None), SchedulerTable)] == world.table(), how
        assert world.hear(raylet_of(ONE), JoinScheduler(ADDRESS, 0)) == [], "what it said before is read after"


# ---------------------------------------------------------------------------------- the node
class NodeWorld:
    def __init__(self) -> None:
        self.node = Node(node_info("a", CPU=1), "s", Allocator(1 << 20))
        self.node.start(0.0)
        infos = [node_info("a", CPU=1), node_info("b", CPU=8)]
        self.hear(HEAD, NodeTable([info.as_dict() for info in infos]))
        self.hear(DRIVER, RegisterProcess("driver", 1))

    def hear(self, sender: ProcessId, message: Message) -> list[Effect]:
        effects = self.node.handle(Received(sender, message), 0.1)
        check(self.node)
        return [effect for effect in effects if isinstance(effect, Send | SendFrom | ConnectPeer | ForgetPeer)]


def test_a_raylet_asks_the_schedulers_that_there_are_by_owner_and_the_head_if_there_is_none() -> None:
    world = NodeWorld()
    world.hear(DRIVER, asks(1))
    assert world.hear(DRIVER, asks(2)) == [SendFrom(HEAD, DRIVER, asks(2))]

    table = SchedulerTable([(OTHER, ADDRESS), (ONE, ADDRESS)])
    assert world.hear(HEAD, table) == [ConnectPeer(OTHER, ADDRESS), ConnectPeer(ONE, ADDRESS)]
    ((to, request),) = [(one.to, one.message) for one in world.hear(DRIVER, asks(3)) if isinstance(one, SendFrom)]
    assert (to in (raylet_of(ONE), raylet_of(OTHER)), request) == (True, asks(3))
    back = ReturnLeases(leases(3))
    assert world.hear(DRIVER, back) == [SendFrom(to, DRIVER, back)], "the way of its request"
    in_group = asks(4, where=("group", b"g" * 24, 0))
    assert world.hear(DRIVER, in_group) == [SendFrom(HEAD, DRIVER, in_group)]


def test_when_a_scheduler_goes_owners_are_to_ask_again_and_the_next_one_is_asked() -> None:
    world = NodeWorld()
    world.hear(DRIVER, asks(1))
    world.hear(HEAD, SchedulerTable([(ONE, ADDRESS)]))
    assert world.hear(HEAD, SchedulerTable([(OTHER, ADDRESS)])) == [
        ForgetPeer(ONE),
        Send(DRIVER, SchedulerGone()),
        ConnectPeer(OTHER, ADDRESS),
    ]
    assert world.hear(DRIVER, asks(2)) == [SendFrom(raylet_of(OTHER), DRIVER, asks(2))]
    lost = world.node.handle(PeerLost(OTHER, "silent"), 0.1)
    assert lost == [ForgetPeer(OTHER), Send(DRIVER, SchedulerGone()), Send(HEAD, NodeGone(OTHER, "silent"))]
    assert world.hear(DRIVER, asks(3)) == [SendFrom(HEAD, DRIVER, asks(3))]


def test_a_node_counts_for_each_who_places_there_and_reports_it() -> None:
    world = NodeWorld()
    world.hear(HEAD, SchedulerTable([(ONE, ADDRESS), (OTHER, ADDRESS)]))
    world.hear(raylet_of(ONE), placed(1, 2))
    world.hear(DRIVER, RequestLeases(leases(3), CPU, [], True))
    world.hear(raylet_of(OTHER), placed(1))
    claims = world.node.claims
    assert (claims.placed, claims.settled()) == (1, 0)
    assert claims.others() == {ONE: (2, 0), OTHER: (1, 1)}, "of the same lease one claim is enough"
    assert not claims.oversubscribed


# ---------------------------------------------------------------------------------- the owner
def test_an_owner_asks_again_for_what_it_has_not_got_under_the_same_ids() -> None:
    bench = Bench()
    bench.submit(bench.task(), bench.task())
    bench.lease(1)
    assert bench.hear(SchedulerGone()) == [asks_for(2)]


def test_a_second_grant_s_end_is_not_the_end_of_the_first() -> None:
    bench = Bench()
    task = bench.running(retries=1)
    elsewhere = raylet_of(OTHER_NODE)
    again = LeaseGranted(owner_s_lease(1), REMOTE)
    assert bench.hear(again, elsewhere) == [Send(elsewhere, ReturnLeases([owner_s_lease(1)]))]
    assert bench.hear(LeaseLost(owner_s_lease(1), "killed"), elsewhere) == []
    bench.done(task)
    assert task.returns[0].value == b"value"
