"""Objects from node to node, with several nodes' models and no process: who asks whom, for what, and how often."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sparkray_core.ids import NodeId, ObjectId, ProcessId, node_of, raylet_of
from sparkray_core.messages import (
    AllocateObject,
    FreeObjects,
    NodeBeat,
    NodeGone,
    NodeTable,
    NotHere,
    ObjectAllocated,
    ObjectChunk,
    ObjectGone,
    ObjectPinned,
    PinObject,
    PullObject,
    RegisterProcess,
    SealObjects,
    UnpinObjects,
)
from sparkray_core.model.effects import CopyChunk, Effect, ForgetChunks, MapPeer, Send, SendChunk, WriteChunk
from sparkray_core.model.events import ChunkCopied, ClockTicked, ConnectionLost, Event, LaneBroke, PeerMapped, Received
from sparkray_core.model.invariants import check
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node import Node
from sparkray_core.store.allocator import Allocator
from sparkray_core.testing.builders import an_object, node_id, node_info, process_id

CHUNK = 100
LIMITS = NodeLimits(chunk_bytes=CHUNK, chunks_ahead=2, warm_workers=0)
HEAD = ProcessId(bytes(16))


class Nodes:
    """Their drivers are all called d. What is under way is delivered one by one, first in, first out."""

    def __init__(self, letters: str, limits: NodeLimits = LIMITS, hosts: str = "", store_bytes: int = 1 << 16) -> None:
        """
        Args:
            hosts: a letter for each node; else each has one of its own.
        """
        self.nodes: dict[NodeId, Node] = {}
        self.segments: dict[NodeId, bytearray] = {}
        self.under_way: deque[tuple[NodeId, Event]] = deque()
        self.served: Counter[str] = Counter()  # chunks that left a node
        self.asked: list[tuple[str, int]] = []  # of whom, from which byte
        self.heard: list[Any] = []  # by drivers
        self.forgotten: list[ObjectId] = []
        self.maps = True
        self.now = 0.0
        infos = [
            replace(node_info(letter, store_bytes=store_bytes, CPU=0), host=host)
            for letter, host in zip(letters, hosts or letters, strict=True)
        ]
        for info in infos:
            node = self.nodes[info.node] = Node(info, "test", Allocator(store_bytes), limits)
            self.segments[info.node] = bytearray(store_bytes)
            node.start(0.0)
        for info in infos:
            self.event(info.node, Received(HEAD, NodeTable([one.as_dict() for one in infos])))
            self.event(info.node, Received(process_id(info.node, "d"), RegisterProcess("driver", 1)))
        self.heard.clear()

    def event(self, node: NodeId, event: Event) -> None:
        effects = self.nodes[node].handle(event, self.now)
        check(self.nodes[node])
        for effect in effects:
            self._perform(node, effect)

    def say(self, letter: str, message: Any) -> None:
        """By its driver."""
        node = node_id(letter)
        self.event(node, Received(process_id(node, "d"), message))

    def _perform(self, node: NodeId, effect: Effect) -> None:
        segment = self.segments[node]
        match effect:
            case Send(to, message) if to == raylet_of(node_of(to)) and node_of(to) in self.nodes:
                if isinstance(message, PullObject):
                    self.asked.append((_letter(node_of(to)), message.first))
                self.under_way.append((node_of(to), Received(raylet_of(node), message)))
            case Send(to, message) if node_of(to) == node:
                self.heard.append(message)
            case SendChunk(to, some, offset, first, length, size):
                self.served[_letter(node)] += 1
                data = bytes(segment[offset + first : offset + first + length])
                self.under_way.append((node_of(to), Received(raylet_of(node), ObjectChunk(some, first, size, data))))
            case WriteChunk(offset, data):
                segment[offset : offset + len(data)] = data
            case MapPeer(peer):
                self.under_way.append((node, PeerMapped(peer, self.maps)))
            case CopyChunk(some, source, first, length, offset, into):
                data = bytes(self.segments[source][offset + first : offset + first + length])
                segment[into + first : into + first + length] = data
                self.under_way.append((node, ChunkCopied(some, first, length)))
            case ForgetChunks(some):
                self.forgotten.append(some)
                gone = [one for one in self.under_way if isinstance(one[1], ChunkCopied) and one[1].object == some]
                for one in gone:
                    self.under_way.remove(one)
            case _:
                pass

    def deliver(self, until: Callable[[], bool] = lambda: False) -> None:
        while self.under_way and not until():
            self.event(*self.under_way.popleft())

    def put(self, letter: str, count: int, size: int) -> ObjectId:
        node = node_id(letter)
        some = an_object(process_id(node, "d"), count)
        self.say(letter, AllocateObject(some, size))
        answer = self.heard.pop()
        assert isinstance(answer, ObjectAllocated)
        self.segments[node][answer.offset : answer.offset + size] = _content(size)
        self.say(letter, SealObjects([some]))
        return some

    def read(self, letter: str, some: ObjectId, *sources: str) -> None:
        self.say(letter, PinObject(some, [node_id(source) for source in sources]))

    def value(self, letter: str, some: ObjectId) -> bytes:
        stored = self.nodes[node_id(letter)].store.stored[some]
        return bytes(self.segments[node_id(letter)][stored.offset : stored.offset + stored.size])

    def kill(self, letter: str) -> None:
        """What it sent last is lost."""
        gone = node_id(letter)
        sent = [one for one in self.under_way if isinstance(one[1], Received) and node_of(one[1].sender) == gone]
        self.under_way = deque(one for one in self.under_way if one not in sent and one[0] != gone)
        del self.nodes[gone]
        for node in list(self.nodes):
            self.event(node, Received(HEAD, NodeGone(gone, "power cut")))

    def tick(self, now: float) -> None:
        self.now = now
        for node in list(self.nodes):
            self.event(node, ClockTicked())

    def check_that_nothing_is_left(self) -> None:
        for node in self.nodes.values():
            assert not node.pulls.pulls
            assert not node.serves.transfers
            assert not node.serves.waiting
            assert not node.serves.waves
            assert not any(node.serves.unwritten.values())


def _letter(node: NodeId) -> str:
    return node.decode().strip(".")


def _content(size: int) -> bytes:
    return bytes(index * 7 % 251 for index in range(size))


def test_many_nodes_that_want_one_object_at_a_time_hand_it_on_to_each_other() -> None:
    readers = "bcdefghijk"
    nodes = Nodes("a" + readers)
    some = nodes.put("a", 1, 20 * CHUNK)

    for letter in readers:
        nodes.read(letter, some, "a")
    nodes.deliver()

    assert all(nodes.value(letter, some) == _content(20 * CHUNK) for letter in readers)
    assert nodes.served["a"] == 2 * 20  # not ten times 20
    assert max(nodes.served.values()) == 2 * 20
    assert sum(nodes.served.values()) == 10 * 20
    nodes.check_that_nothing_is_left()


def test_what_has_come_so_far_is_handed_on_while_the_rest_comes() -> None:
    nodes = Nodes("abc", replace(LIMITS, pull_fanout=1))
    some = nodes.put("a", 1, 20 * CHUNK)
    nodes.read("b", some, "a")
    nodes.read("c", some, "a")

    nodes.deliver(until=lambda: nodes.served["b"] > 3)

    assert node_id("b") in {pull.source for pull in nodes.nodes[node_id("c")].pulls.pulls.values()}
    assert some not in nodes.nodes[node_id("b")].store.stored
    nodes.deliver()
    assert nodes.value("c", some) == _content(20 * CHUNK)
    assert nodes.served == {"a": 20, "b": 20}


def test_who_handed_it_on_dies_and_the_source_serves_what_is_missing() -> None:
    nodes = Nodes("abc", replace(LIMITS, pull_fanout=1))
    some = nodes.put("a", 1, 20 * CHUNK)
    nodes.read("b", some, "a")
    nodes.read("c", some, "a")
    nodes.deliver(until=lambda: nodes.served["b"] > 3)
    served, pull = nodes.served["a"], nodes.nodes[node_id("c")].pulls.pulls[some]

    nodes.kill("b")
    had = len(pull.have)
    nodes.deliver()

    assert had >= 3
    assert nodes.value("c", some) == _content(20 * CHUNK)
    assert nodes.served["a"] - served == 20 - had
    nodes.check_that_nothing_is_left()


def test_a_pull_goes_on_with_what_is_missing_when_its_source_dies() -> None:
    nodes = Nodes("abc")
    some = nodes.put("a", 1, 10 * CHUNK)
    nodes.read("c", some, "a")
    nodes.deliver()
    nodes.asked.clear()
    nodes.read("b", some, "a", "c")
    first = next(iter(nodes.nodes[node_id("b")].pulls.pulls.values())).source
    other = {"a": "c", "c": "a"}[_letter(first)]
    pull = nodes.nodes[node_id("b")].pulls.pulls[some]
    nodes.deliver(until=lambda: len(pull.have) == 6)

    nodes.kill(_letter(first))
    had = set(pull.have)
    nodes.deliver()

    assert [byte for node, byte in nodes.asked if node == other] == [
        byte for byte in range(0, 10 * CHUNK, CHUNK) if byte not in had
    ]
    assert nodes.value("b", some) == _content(10 * CHUNK)


def test_all_pulls_together_have_no_more_under_way_than_the_node_may_have() -> None:
    nodes = Nodes("ab", replace(LIMITS, chunks_ahead=4, pull_ahead_bytes=3 * CHUNK))
    some = [nodes.put("a", count, 9 * CHUNK) for count in range(1, 6)]
    pulls, most = nodes.nodes[node_id("b")].pulls, 0

    def look() -> bool:
        nonlocal most
        most = max(most, pulls.under_way)
        return False

    for one in some:
        nodes.read("b", one, "a")
    nodes.deliver(until=look)

    assert most == 3 * CHUNK
    assert [nodes.value("b", one) for one in some] == [_content(9 * CHUNK)] * 5
    assert not pulls.under_way
    assert not pulls.hungry
    nodes.check_that_nothing_is_left()


def test_of_a_node_on_the_same_host_only_the_place_is_asked() -> None:
    nodes = Nodes("abc", hosts="xxy")
    some = nodes.put("a", 1, 10 * CHUNK)

    nodes.read("b", some, "a")
    nodes.read("c", some, "a")
    nodes.deliver()

    assert nodes.value("b", some) == nodes.value("c", some) == _content(10 * CHUNK)
    assert nodes.served == {"a": 10}  # for c
    nodes.check_that_nothing_is_left()


def test_a_node_on_the_same_host_whose_segment_cannot_be_mapped_is_asked_for_the_bytes() -> None:
    nodes = Nodes("ab", hosts="xx")
    nodes.maps = False
    some = nodes.put("a", 1, 10 * CHUNK)

    nodes.read("b", some, "a")
    nodes.deliver()

    assert nodes.value("b", some) == _content(10 * CHUNK)
    assert nodes.served == {"a": 10}


def test_what_is_read_in_place_is_not_freed_before_the_reader_has_it() -> None:
    nodes = Nodes("ab", hosts="xx")
    some = nodes.put("a", 1, 10 * CHUNK)
    nodes.read("b", some, "a")
    copies = nodes.nodes[node_id("b")].pulls.pulls[some].copies
    nodes.deliver(until=lambda: len(copies) == 5)

    nodes.say("a", FreeObjects([some]))
    nodes.tick(1000.0)
    assert some in nodes.nodes[node_id("a")].store.stored

    nodes.deliver()
    assert some not in nodes.nodes[node_id("a")].store.stored
    nodes.check_that_nothing_is_left()


def test_copies_of_a_segment_whose_node_died_are_called_off_before_their_room_is_given_to_another() -> None:
    nodes = Nodes("ab", hosts="xx")
    some = nodes.put("a", 1, 10 * CHUNK)
    nodes.read("b", some, "a")
    copies = nodes.nodes[node_id("b")].pulls.pulls[some].copies
    nodes.deliver(until=lambda: len(copies) == 5)
    nodes.heard.clear()

    nodes.kill("a")

    assert nodes.forgotten == [some]
    assert [type(one) for one in nodes.heard] == [ObjectGone, NodeGone]
    assert not nodes.nodes[node_id("b")].store.unsealed


def test_what_is_on_disk_of_a_node_on_the_same_host_is_sent() -> None:
    nodes = Nodes("ab", hosts="xx")
    some = nodes.put("a", 1, 3 * CHUNK)
    reader, source = nodes.nodes[node_id("b")], nodes.nodes[node_id("a")]
    nodes.read("b", some, "a")
    nodes.deliver(until=lambda: bool(reader.pulls.pulls[some].maps))
    asked = nodes.under_way.pop()[1]
    assert isinstance(asked, Received)
    assert asked.message == PullObject(some, 0, CHUNK, True)

    for first in range(0, 3 * CHUNK, CHUNK):
        data = _content(3 * CHUNK)[first : first + CHUNK]
        nodes.event(node_id("b"), Received(raylet_of(source.info.node), ObjectChunk(some, first, 3 * CHUNK, data)))

    assert nodes.value("b", some) == _content(3 * CHUNK)
    assert [type(one) for one in nodes.heard] == [ObjectPinned]


def test_who_waits_for_a_part_that_does_not_come_is_told_so_and_asks_the_source() -> None:
    nodes = Nodes("abc", replace(LIMITS, pull_fanout=1, transfer_s=30.0))
    some = nodes.put("a", 1, 5 * CHUNK)
    nodes.read("b", some, "a")
    nodes.read("c", some, "a")
    nodes.deliver(until=lambda: nodes.nodes[node_id("c")].pulls.pulls[some].source == node_id("b"))
    lost = [one for one in nodes.under_way if one[0] == node_id("b")]  # as if a's connection to b stood still
    nodes.under_way = deque(one for one in nodes.under_way if one not in lost)
    nodes.event(node_id("b"), Received(raylet_of(node_id("c")), PullObject(some, 4 * CHUNK, CHUNK)))

    nodes.now = 31.0
    nodes.event(node_id("b"), ClockTicked())
    assert (node_id("c"), Received(raylet_of(node_id("b")), NotHere(some))) in nodes.under_way
    nodes.deliver()

    assert nodes.value("c", some) == _content(5 * CHUNK)


def test_what_was_lost_with_a_lane_is_asked_for_again() -> None:
    nodes = Nodes("ab", LIMITS)
    some = nodes.put("a", 1, 5 * CHUNK)
    nodes.read("b", some, "a")
    pull = nodes.nodes[node_id("b")].pulls.pulls[some]
    nodes.deliver(until=lambda: len(pull.have) == 2 and any(is_chunk(one) for one in nodes.under_way))
    nodes.under_way = deque(one for one in nodes.under_way if not is_chunk(one))

    nodes.event(node_id("b"), LaneBroke(node_id("a")))
    nodes.deliver()

    assert nodes.value("b", some) == _content(5 * CHUNK)
    assert nodes.nodes[node_id("b")].pulls.under_way == 0


def is_chunk(under_way: tuple[NodeId, Event]) -> bool:
    return isinstance(under_way[1], Received) and isinstance(under_way[1].message, ObjectChunk)


def test_two_that_were_sent_to_each_other_do_not_wait_for_each_other() -> None:
    nodes = Nodes("abc")
    some = nodes.put("a", 1, 5 * CHUNK)
    nodes.read("b", some, "c")
    nodes.read("c", some, "b")
    nodes.deliver()

    assert [type(one) for one in nodes.heard] == [ObjectGone, ObjectGone]
    nodes.check_that_nothing_is_left()


def test_an_empty_object_comes_from_either_host() -> None:
    for hosts in ("xx", "xy"):
        nodes = Nodes("ab", hosts=hosts)
        some = nodes.put("a", 1, 0)
        nodes.read("b", some, "a")
        nodes.deliver()
        nodes.say("b", UnpinObjects([some]))
        assert nodes.value("b", some) == b""
        nodes.check_that_nothing_is_left()


def test_a_source_that_the_head_has_not_told_of_yet_is_asked_as_soon_as_it_has() -> None:
    nodes = Nodes("ab")
    some = nodes.put("a", 1, 2 * CHUNK)
    reader = nodes.nodes[node_id("b")]
    info = reader.table.pop(node_id("a"))
    reader.peers.discard(node_id("a"))

    nodes.read("b", some, "a")
    assert not nodes.asked
    nodes.event(node_id("b"), Received(HEAD, NodeTable([info.as_dict()])))
    nodes.deliver()
    assert nodes.value("b", some) == _content(2 * CHUNK)

    nodes.read("b", an_object(process_id(node_id("c"), "d"), 1), "c")
    nodes.tick(5.0)
    assert [type(one) for one in nodes.heard] == [ObjectPinned, ObjectGone]


def test_how_fast_objects_come_is_measured_and_told() -> None:
    nodes = Nodes("ab", replace(LIMITS, measured_bytes=10 * CHUNK))
    pulls = nodes.nodes[node_id("b")].pulls
    for number, (chunks, seconds) in enumerate(((20, 2.0), (5, 1.0), (10, 2.0)), 1):  # the second is too small to tell
        some = nodes.put("a", number, chunks * CHUNK)
        nodes.read("b", some, "a")
        nodes.now += seconds
        nodes.deliver()

    assert pulls.bytes_s == 10 * CHUNK + 0.2 * (5 * CHUNK - 10 * CHUNK)
    nodes.now += 1.0
    effects = nodes.nodes[node_id("b")].handle(ClockTicked(), nodes.now)
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    assert [message.pull_bytes_s for message in messages if isinstance(message, NodeBeat)] == [pulls.bytes_s]


def test_word_of_an_object_that_overtook_its_writers_waits_for_that() -> None:
    """A worker tells an owner on its host where its result lies, and its raylet that it is there, over two sockets."""
    nodes = Nodes("ab")
    writer, some = process_id(node_id("a"), "d"), an_object(process_id(node_id("b"), "d"), 1)
    nodes.say("a", AllocateObject(some, 3 * CHUNK))
    answer = nodes.heard.pop()
    nodes.segments[node_id("a")][answer.offset : answer.offset + 3 * CHUNK] = _content(3 * CHUNK)
    nodes.read("b", some, "a")
    nodes.deliver()
    assert nodes.heard == []

    nodes.event(node_id("a"), Received(writer, SealObjects([some])))
    nodes.deliver()

    assert nodes.value("b", some) == _content(3 * CHUNK)
    assert ObjectPinned in [type(one) for one in nodes.heard]
    nodes.check_that_nothing_is_left()


def test_who_waits_for_a_writer_that_dies_hears_that_there_is_nothing() -> None:
    nodes = Nodes("ab")
    writer, some = process_id(node_id("a"), "d"), an_object(process_id(node_id("b"), "d"), 1)
    nodes.say("a", AllocateObject(some, 3 * CHUNK))
    nodes.heard.clear()
    nodes.read("b", some, "a")
    nodes.deliver()

    nodes.event(node_id("a"), ConnectionLost(writer))
    nodes.deliver()

    assert [type(one) for one in nodes.heard] == [ObjectGone]
    nodes.check_that_nothing_is_left()
