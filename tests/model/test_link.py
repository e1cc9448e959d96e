"""The link between two nodes, on a virtual clock: single facts first, then whole networks by dice."""

from __future__ import annotations

import heapq
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise

import pytest

from sparkray_core.model.link import (
    ACK_DELAY_S,
    ACK_PACKETS,
    FIRST_TIMEOUT_S,
    HEADER_BYTES,
    PACKET_BYTES,
    RESEND_BYTES,
    Deliver,
    Link,
    LinkEffect,
    PeerRestarted,
    PeerSilent,
    Transmit,
)

A, B = b"A" * 8, b"B" * 8


def packets(effects: list[LinkEffect]) -> list[bytes]:
    return [effect.packet for effect in effects if isinstance(effect, Transmit)]


def others(effects: list[LinkEffect]) -> list[LinkEffect]:
    return [effect for effect in effects if not isinstance(effect, Transmit)]


def exchange(one: Link, other: Link, effects: list[LinkEffect], now: float = 0.0) -> list[LinkEffect]:
    """Carry what `one` transmits to `other` and back, until both are quiet. What else they wished for, in order."""
    seen = others(effects)
    under_way = [(other, packet) for packet in packets(effects)]
    while under_way:
        end, packet = under_way.pop(0)
        effects = end.received(packet, now)
        seen += others(effects)
        under_way += [(one if end is other else other, answer) for answer in packets(effects)]
    return seen


def acquainted(heartbeat_s: float | None = None) -> tuple[Link, Link]:
    a, b = Link(A, 0.0, heartbeat_s=heartbeat_s), Link(B, 0.0, heartbeat_s=heartbeat_s)
    exchange(a, b, a.send([b"hello"], 0.0))
    exchange(b, a, b.tick(ACK_DELAY_S), ACK_DELAY_S)
    assert (a.unacked_bytes, a.next_wake() is None) == (0, heartbeat_s is None)
    return a, b


# ---------------------------------------------------------------------------------- meeting
def test_the_first_payload_waits_until_both_ends_know_each_other() -> None:
    a, b = Link(A, 0.0), Link(B, 0.0)
    first = a.send([b"one"], 0.0)

    assert [len(packet) for packet in packets(first)] == [HEADER_BYTES]
    assert exchange(a, b, first) == [Deliver([b"one"])]


def test_a_peer_known_from_elsewhere_gets_the_first_payload_at_once() -> None:
    a, b = Link(A, 0.0, peer_incarnation=B), Link(B, 0.0)
    (first,) = packets(a.send([b"one"], 0.0))

    assert others(b.received(first, 0.0)) == [Deliver([b"one"])]


def test_a_peer_that_is_not_there_yet_is_asked_ever_more_rarely() -> None:
    a = Link(A, 0.0)
    asked = [0.0] if a.send([b"one"], 0.0) else []
    while len(asked) < 8:
        wake = a.next_wake()
        assert wake is not None
        if packets(a.tick(wake)):
            asked.append(wake)
    gaps = [after - before for before, after in pairwise(asked)]
    assert gaps == pytest.approx([0.25, 0.5, 1, 2, 4, 5, 5])


def test_both_ends_may_begin_at_the_same_time() -> None:
    a, b = Link(A, 0.0), Link(B, 0.0)
    from_a, from_b = a.send([b"from a"], 0.0), b.send([b"from b"], 0.0)

    seen = exchange(a, b, from_a) + exchange(b, a, from_b)

    assert sorted(seen, key=repr) == [Deliver([b"from a"]), Deliver([b"from b"])]


def test_a_waiting_payload_leaves_as_soon_as_the_peer_shows_itself() -> None:
    a, b = Link(A, 0.0, heartbeat_s=1.0), Link(B, 0.0)
    b.send([b"waiting"], 0.0)  # what it transmits is lost

    assert exchange(a, b, a.tick(0.0)) == [Deliver([b"waiting"])]


# ---------------------------------------------------------------------------------- another process goes on
def another_process(link: Link) -> Link:
    copy: Link = pickle.loads(pickle.dumps(link))
    return copy


def test_an_end_that_lives_again_goes_on_as_the_same_and_both_send_what_was_lost() -> None:
    a, b = acquainted()
    (arrives, _), answer = packets(a.send([b"x"], 1.0) + a.send([b"y"], 1.0)), b.send([b"z"], 1.0)
    assert b.received(arrives, 1.0) == [Deliver([b"x"])]
    assert len(packets(answer)) == 1  # it is lost, as is the packet with y

    a = another_process(a)
    assert exchange(a, b, a.resumed(1.5), 1.5) == [Deliver([b"z"]), Deliver([b"y"])]
    assert exchange(a, b, a.tick(1.6), 1.6) + exchange(b, a, b.tick(1.6), 1.6) == []
    assert (a.unacked_bytes, b.unacked_bytes) == (0, 0)


def test_what_arrived_as_part_of_a_larger_packet_does_not_hide_the_rest() -> None:
    a, b = acquainted()
    (first, second) = packets(a.send([b"1", b"2"], 1.0) + a.send([b"3", b"4"], 1.0))
    assert b.received(second, 1.0) == []  # early
    assert b.received(first, 1.0) == [Deliver([b"1", b"2", b"3", b"4"])]
    replayed = another_process(a)
    replayed._unacked.clear()  # the same payloads in one packet, which another replay may make of them
    replayed._next_out -= 4
    replayed.send([b"1", b"2", b"3", b"4"], 1.0)
    replayed.send([b"5"], 1.0)

    assert exchange(replayed, b, replayed.resumed(1.5), 1.5) == [Deliver([b"5"])]
    assert exchange(b, replayed, b.tick(1.6), 1.6) == []
    assert replayed.unacked_bytes == 0


def test_what_was_received_early_before_the_end_comes_again() -> None:
    a, b = acquainted()
    (_, second) = packets(b.send([b"1"], 1.0) + b.send([b"2"], 1.0))
    assert a.received(second, 1.0) == []
    a = another_process(a)
    a.replay_received(1, a.acknowledged, 1.0)  # the life before had the first, after this copy was made of it

    assert exchange(a, b, a.resumed(1.5), 1.5) == [Deliver([b"2"])]


def test_what_waits_for_an_unknown_peer_survives() -> None:
    a, b = Link(A, 0.0), Link(B, 0.0)
    a.send([b"x"], 0.0)
    a = another_process(a)

    assert exchange(a, b, a.resumed(5.0), 5.0) == [Deliver([b"x"])]


# ---------------------------------------------------------------------------------- the ordinary case
def test_an_acknowledgement_waits_for_a_payload_to_travel_with() -> None:
    a, b = acquainted()
    (packet,) = packets(a.send([b"x"], 1.0))
    assert b.received(packet, 1.0) == [Deliver([b"x"])]

    (answer,) = packets(b.send([b"y"], 1.01))

    assert a.received(answer, 1.01) == [Deliver([b"y"])]
    assert a.unacked_bytes == 0
    assert b.tick(1.0 + ACK_DELAY_S) == []


def test_an_acknowledgement_is_sent_alone_after_a_while() -> None:
    a, b = acquainted()
    (packet,) = packets(a.send([b"x"], 1.0))
    b.received(packet, 1.0)

    assert b.next_wake() == 1.0 + ACK_DELAY_S
    assert b.tick(1.0) == []
    (bare,) = packets(b.tick(1.0 + ACK_DELAY_S))
    assert a.received(bare, 1.1) == []
    assert (a.unacked_bytes, a.next_wake(), b.next_wake()) == (0, None, None)


def test_an_acknowledgement_is_sent_alone_after_many_packets() -> None:
    a, b = acquainted()
    effects: list[LinkEffect] = []
    for _ in range(ACK_PACKETS):
        assert packets(effects) == []
        (packet,) = packets(a.send([b"x"], 1.0))
        effects = b.received(packet, 1.0)

    (bare,) = packets(effects)
    a.received(bare, 1.0)
    assert a.unacked_bytes == 0


def test_small_payloads_share_a_packet_and_a_large_one_has_its_own() -> None:
    a, b = acquainted()
    small, large = [b"%d" % i for i in range(1000)], bytes(2 * PACKET_BYTES)

    sent = a.send([*small, large, *small], 1.0)

    assert len(packets(sent)) == 3
    assert exchange(a, b, sent, 1.0) == [Deliver(small), Deliver([large]), Deliver(small)]


def test_empty_payloads_and_empty_batches_are_delivered_as_sent() -> None:
    a, b = acquainted()
    assert a.send([], 1.0) == []
    assert exchange(a, b, a.send([b""], 1.0), 1.0) == [Deliver([b""])]
    assert exchange(a, b, a.send([b"", b"x", b""], 1.0), 1.0) == [Deliver([b"", b"x", b""])]


# ---------------------------------------------------------------------------------- loss
def test_an_early_packet_is_kept_and_a_doubled_one_dropped() -> None:
    a, b = acquainted()
    first, second = packets(a.send([b"1"], 1.0) + a.send([b"2"], 1.0))

    assert b.received(second, 1.0) == []
    assert b.received(first, 1.0) == [Deliver([b"1", b"2"])]
    assert others(b.received(first, 1.0) + b.received(second, 1.0)) == []


def test_a_lost_packet_is_sent_again_ever_more_rarely() -> None:
    a, b = acquainted()
    (lost,) = packets(a.send([b"x"], 1.0))
    times: list[float] = []
    while len(times) < 6:
        wake = a.next_wake()
        assert wake is not None
        for again in packets(a.tick(wake)):
            assert again == lost
            times.append(wake)

    gaps = [after - before for before, after in pairwise(times)]
    assert gaps[:2] == pytest.approx([gaps[0], 2 * gaps[0]])
    assert gaps[-1] == 5.0
    assert others(b.received(lost, 9.0)) == [Deliver([b"x"])]


def test_a_run_of_lost_packets_is_mended_in_one_time_out_and_doubling_bursts() -> None:
    a, b = acquainted()
    lost = [packets(a.send([bytes(64 << 10)], 1.0)) for _ in range(500)]  # a broken connection took them all
    assert a.unacked_bytes == sum(len(packet) - HEADER_BYTES for (packet,) in lost)

    wake = a.next_wake()
    assert wake is not None
    assert wake <= 1.0 + FIRST_TIMEOUT_S
    sent = delivered = bursts = 0
    burst = packets(a.tick(wake))
    while burst:
        bursts += 1
        sent += len(burst)
        effects = [effect for packet in burst for effect in b.received(packet, wake)] + b.tick(wake + ACK_DELAY_S)
        delivered += sum(len(effect.payloads) for effect in effects if isinstance(effect, Deliver))
        burst = [again for packet in packets(effects) for again in packets(a.received(packet, wake))]

    assert (delivered, sent, a.unacked_bytes) == (500, 500, 0)
    assert bursts < 10


def test_a_late_acknowledgement_costs_one_burst_sent_in_vain() -> None:
    a, b = acquainted()
    sent = [packets(a.send([bytes(64 << 10)], 1.0))[0] for _ in range(500)]
    wake = a.next_wake()
    assert wake is not None
    again = packets(a.tick(wake))

    for packet in sent + again:
        for answer in packets(b.received(packet, wake)):
            again += packets(a.received(answer, wake))

    assert len(again) <= RESEND_BYTES // (64 << 10)


# ---------------------------------------------------------------------------------- silence
def test_a_peer_that_does_not_answer_is_reported_once() -> None:
    a, _ = acquainted()
    a.send([b"x"], 100.0)

    reported = [effect for tenth in range(1000, 1500) for effect in others(a.tick(tenth / 10))]

    assert reported == [PeerSilent(10.0)]


def test_a_peer_that_owes_nothing_may_be_silent() -> None:
    a, _ = acquainted()
    assert a.next_wake() is None
    assert a.tick(10_000.0) == []


def test_heartbeats_keep_an_idle_link_alive_and_their_end_is_noticed() -> None:
    a, b = acquainted(heartbeat_s=1.0)
    now = 0.0
    while now < 60.0:
        now = min(filter(None, (a.next_wake(), b.next_wake())))
        assert exchange(a, b, a.tick(now), now) == []
        assert exchange(b, a, b.tick(now), now) == []

    while not (reported := others(a.tick(now))):
        now = a.next_wake() or now
    assert reported == [PeerSilent(10.0)]
    assert now == pytest.approx(70.0, abs=1.0)


# ---------------------------------------------------------------------------------- other lives
def test_a_restarted_peer_is_noticed_and_gets_nothing_that_was_meant_for_its_earlier_life() -> None:
    a, b = acquainted()
    (old,) = packets(a.send([b"for the first life"], 1.0))
    second = Link(b"C" * 8, 1.0)

    assert exchange(second, a, second.received(old, 1.0), 1.0) == [PeerRestarted(1)]
    assert exchange(a, second, a.send([b"for the second"], 2.0), 2.0) == [Deliver([b"for the second"])]
    assert others(b.received(old, 2.0)) == [Deliver([b"for the first life"])]  # as it would have, had it lived


def test_a_late_packet_of_an_earlier_life_does_not_bring_it_back() -> None:
    a, b = acquainted()
    (late,) = packets(b.send([b"late"], 1.0))
    second = Link(b"C" * 8, 1.0)
    assert exchange(second, a, second.send([b"new"], 1.0), 1.0) == [PeerRestarted(0), Deliver([b"new"])]

    effects = a.received(late, 2.0)

    assert others(effects) == []
    assert exchange(a, second, effects + a.send([b"still with you"], 2.0), 2.0) == [Deliver([b"still with you"])]


def test_garbage_is_as_good_as_lost() -> None:
    a, b = acquainted()
    (packet,) = packets(a.send([b"one", b"two"], 1.0))
    dice = random.Random(1)
    for _ in range(2000):
        b.received(dice.randbytes(dice.randrange(100)), 1.0)
    for cut in range(len(packet)):
        assert others(b.received(packet[:cut], 1.0)) == []
    assert others(b.received(packet + b"more", 1.0)) == []
    assert others(b.received(packet, 1.0)) == [Deliver([b"one", b"two"])]


# ---------------------------------------------------------------------------------- by dice
@dataclass
class End:
    """A node: its current life, and what all its lives delivered."""

    name: bytes
    link: Link
    life: int = 0
    sent: list[bytes] = field(default_factory=list)  # by this life, since the peer restarted last
    delivered: list[tuple[int, bytes]] = field(default_factory=list)  # (life that got it, payload)


class Network:
    """Two ends, and what is under way between them."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now = 0.0
        self.loss, self.doubling, self.delay_s = (self.dice.choice(level) for level in LEVELS)
        self.heartbeat_s = self.dice.choice([None, 1.0])
        self.ends = [End(name, self.new_link()) for name in (b"a", b"b")]
        self.under_way: list[tuple[float, int, int, bytes]] = []  # when, tie-breaker, to which end, what
        self.ties: Iterator[int] = count()

    def new_link(self) -> Link:
        return Link(self.dice.randbytes(8), self.now, heartbeat_s=self.heartbeat_s)

    def perform(self, end: End, effects: list[LinkEffect]) -> None:
        for effect in effects:
            match effect:
                case Transmit(packet):
                    copies = 1 + (self.dice.random() < self.doubling)
                    for _ in range(copies):
                        if self.dice.random() >= self.loss:
                            at = self.now + self.dice.expovariate(1 / self.delay_s)
                            to = 1 - self.ends.index(end)
                            heapq.heappush(self.under_way, (at, next(self.ties), to, packet))
                case Deliver(payloads):
                    end.delivered += [(end.life, payload) for payload in payloads]
                case PeerRestarted():
                    end.sent.clear()
                case PeerSilent():
                    pass

    def send(self, end: End) -> None:
        payloads = [
            b"%s %d %d " % (end.name, end.life, self.now * 1e9 + i) + bytes(self.dice.choice([0, 10, 50_000]))
            for i in range(self.dice.randrange(1, 6))
        ]
        end.sent += payloads
        self.perform(end, end.link.send(payloads, self.now))

    def restart(self, end: End) -> None:
        end.life += 1
        end.sent.clear()
        end.link = self.new_link()

    def run_until(self, limit: float) -> None:
        """Let the network and the clock do what is due before `limit`."""
        while True:
            wakes = [wake for end in self.ends if (wake := end.link.next_wake()) is not None]
            at = min([*wakes, *(entry[0] for entry in self.under_way[:1]), limit])
            if at >= limit:
                self.now = limit
                return
            self.now = max(at, self.now)
            if self.under_way and self.under_way[0][0] <= self.now:
                _, _, to, packet = heapq.heappop(self.under_way)
                self.perform(self.ends[to], self.ends[to].link.received(packet, self.now))
            else:
                for end in self.ends:
                    self.perform(end, end.link.tick(self.now))

    def settle(self) -> None:
        """No more loss from here on; wait until all is acknowledged."""
        self.loss = self.doubling = 0.0
        limit = self.now + 300.0
        while any(end.link.unacked_bytes for end in self.ends) and self.now < limit:
            self.run_until(self.now + 1.0)
        self.run_until(self.now + 30.0)  # what is still under way must do no harm
        assert [end.link.unacked_bytes for end in self.ends] == [0, 0]


LEVELS = ([0.0, 0.05, 0.3], [0.0, 0.2], [0.001, 0.05, 0.4])  # loss, doubling, mean delay in seconds


@pytest.mark.parametrize("seed", range(200))
def test_everything_arrives_once_and_in_order(seed: int) -> None:
    network = Network(seed)
    for _ in range(30):
        network.send(network.dice.choice(network.ends))
        network.run_until(network.now + network.dice.expovariate(20))

    network.settle()

    a, b = network.ends
    assert [payload for _, payload in b.delivered] == a.sent
    assert [payload for _, payload in a.delivered] == b.sent


@pytest.mark.parametrize("seed", range(200))
def test_no_life_gets_what_was_meant_for_another(seed: int) -> None:
    network = Network(seed)
    for _ in range(40):
        network.send(network.dice.choice(network.ends))
        if network.dice.random() < 0.1:
            network.restart(network.dice.choice(network.ends))
        network.run_until(network.now + network.dice.expovariate(5))

    for end in network.ends:  # an end that has nothing to say would never learn that its peer is another
        network.send(end)
    network.settle()
    for end in network.ends:
        network.send(end)
    network.settle()

    for end, peer in (network.ends, network.ends[::-1]):
        origins = [(life, *map(int, payload.split()[1:3])) for life, payload in end.delivered]
        assert origins == sorted(origins)  # no earlier life of the peer is heard after a later one, nothing twice
        assert len(origins) == len({origin[1:] for origin in origins})
        last = [payload for life, payload in end.delivered if life == end.life]
        assert [payload for payload in last if int(payload.split()[1]) == peer.life] == peer.sent
