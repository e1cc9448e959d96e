"""Between two nodes: payloads arrive once and in order, over a network that drops, doubles, delays and reorders.

A link is one end. Its caller passes in what arrived, asks `next_wake` when to call `tick`, and performs the effects.
The network below is TCP under zmq, which loses only when a connection breaks: then a run of packets is gone, and the
other end may be another process. So the ordinary case costs one header per packet, and loss is mended by time-outs.

*Lives.* Each end has an *incarnation*, drawn by its caller. A payload is only delivered out of a packet that names both
current incarnations. Incarnations have no order, so that a late packet of an earlier life of the peer must not be taken
for a new one: an end counts its *epoch* up whenever it accepts a peer, tells it in every packet, and accepts another
incarnation only from a packet that repeats the current epoch. Whoever can do that was alive after the last peer
was accepted, and two lives of one node do not overlap.

    nobody known ── a packet names my incarnation and epoch ──> known ── another does so ──> known (PeerRestarted)
    any other packet of a stranger, or to an earlier life of mine: answered by an empty packet, never delivered

*Loss.* Payloads are numbered and acknowledged cumulatively. When nothing was acknowledged for a time-out, the oldest
packets are sent again, a burst at a time, each twice as large, as long as the receiver had nothing after the last one.
What arrives beyond a gap is kept.

*Resuming.* An end whose process died can go on as the same incarnation, if all that it accepted had been written down
before anything of it left (a packet sent, an acknowledgement): `replayed` and `send` bring a link to where it was, and
`resumed` says so to the peer. Both then send at once what the other has not acknowledged. To the peer it was a pause.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from sparkray_core.frozen import frozen

ACK_DELAY_S = 0.02  # how long an acknowledgement waits for a payload to travel with
ACK_PACKETS = 32  # or so many packets
FIRST_TIMEOUT_S = 0.5  # until a round trip was measured
MIN_TIMEOUT_S = 0.25  # a busy peer answers late: its loop may perform effects, or copy, for 100 ms and more
MAX_TIMEOUT_S = 5.0
RESEND_BYTES = 256 << 10  # the first burst after a time-out; what was merely late is then sent twice in vain
EARLY_BYTES = 64 << 20  # kept beyond a gap; what does not fit is sent again
PACKET_BYTES = 256 << 10  # small payloads share a packet up to here; a larger one has its own
PACKET_PAYLOADS = 4096

# incarnation of the sender, of the receiver (zeros: not known), epoch of the sender, of the receiver (as it told),
# number of the first payload (from 1; in an empty packet 0, or RESUMED), the last payload received, payloads in the
# packet.
# Then their lengths (4 bytes each, left out for one), then they themselves.
_HEADER = struct.Struct("!8s8sIIQQH")
HEADER_BYTES = _HEADER.size
_read_header = _HEADER.unpack_from
_NOBODY = bytes(8)
RESUMED = 1  # the sender lives again, and asks for all that it has not acknowledged


@frozen
class Transmit:
    """Put this packet on the network, towards the peer."""

    packet: bytes


@frozen
class Deliver:
    """These arrived: each once, in the order in which they were sent."""

    payloads: list[bytes]


@frozen
class PeerRestarted:
    """Another life of the peer answers. What was sent before this effect is for the earlier one and is dropped."""

    unacknowledged: int  # payloads dropped here; each may have been delivered or not


@frozen
class PeerSilent:
    """Nothing was heard for so long, though something was due. Told once per silence; the link goes on trying."""

    seconds: float


LinkEffect = Transmit | Deliver | PeerRestarted | PeerSilent


@dataclass(slots=True)
class _Sent:
    """A packet that is not acknowledged yet, without its header."""

    first: int
    last: int
    parts: tuple[bytes, ...]
    size: int  # bytes, without header
    sent_at: float


class Link:
    """One end. `now` is in seconds on the caller's monotonic clock, the same for all calls."""

    __slots__ = (
        "_ack_at",
        "_asked",
        "_back_off",
        "_burst",
        "_early",
        "_early_bytes",
        "_epoch",
        "_heartbeat_s",
        "_hello_at",
        "_hello_wait",
        "_last_heard",
        "_last_sent",
        "_me",
        "_next_in",
        "_next_out",
        "_outstanding_since",
        "_packets_to_ack",
        "_peer",
        "_peer_epoch",
        "_recover_to",
        "_resend_at",
        "_resent_to",
        "_round_trip",
        "_silence_s",
        "_silent",
        "_timeout",
        "_unacked",
        "_variation",
        "_waiting",
        "unacked_bytes",
    )

    def __init__(
        self,
        incarnation: bytes,
        now: float,
        *,
        peer_incarnation: bytes | None = None,
        silence_s: float = 10.0,
        heartbeat_s: float | None = None,
    ) -> None:
        """
        Args:
            incarnation: 8 random bytes, new for every `Link` that is ever made.
            peer_incarnation: the peer's, if it is known from elsewhere; spares the first packet a round trip.
            silence_s: after so long without a packet from a peer that should have sent one, `PeerSilent`.
            heartbeat_s: send an empty packet when nothing else was sent for so long, and expect the peer to.
                None: the peer is only expected to answer what it is sent.
        """
        assert len(incarnation) == len(_NOBODY)
        self._me = incarnation
        self._epoch = 0 if peer_incarnation is None else 1
        self._peer = peer_incarnation
        self._silence_s = silence_s
        self._heartbeat_s = heartbeat_s
        self._last_heard = self._last_sent = self._outstanding_since = now
        self._silent = False
        self._asked = False  # the next packet will say how much of what was sent before this end died has arrived
        self._hello_wait = MIN_TIMEOUT_S
        self._hello_at = now if self._peer is None and heartbeat_s is not None else None
        self._waiting: list[bytes] = []  # payloads for a peer that is not known yet
        self._reset(peer_epoch=0)

    def _reset(self, peer_epoch: int) -> None:
        """Both directions begin again at 1."""
        self._peer_epoch = peer_epoch
        self._next_out = self._next_in = 1
        self._unacked: deque[_Sent] = deque()
        self.unacked_bytes = 0  # that the peer has not acknowledged, payloads not sent yet included
        self._early: dict[int, tuple[int, bytes]] = {}  # first number -> (payloads, packet)
        self._early_bytes = 0
        self._ack_at: float | None = None
        self._packets_to_ack = 0
        self._resend_at: float | None = None
        self._timeout = FIRST_TIMEOUT_S
        self._back_off = 1
        self._round_trip = self._variation = 0.0  # smoothed, seconds; 0 until measured
        self._recover_to = 0  # packets up to here may have been sent twice
        self._resent_to = 0
        self._burst = RESEND_BYTES

    # ------------------------------------------------------------------------------ sending
    def send(self, payloads: Sequence[bytes], now: float) -> list[LinkEffect]:
        """Deliver these at the peer, in this order, after all that was sent before."""
        if not payloads:
            return []
        if self._peer is None:
            if not self._waiting:
                self._outstanding_since = now
            self._waiting.extend(payloads)
            self.unacked_bytes += sum(map(len, payloads))
            return self._hello(now) if self._hello_at is None or now >= self._hello_at else []
        effects: list[LinkEffect] = []
        if len(payloads) == 1:
            self._send_group(payloads, now, effects)
            return effects
        begin = size = 0
        for end, payload in enumerate(payloads):
            if end > begin and (size + len(payload) > PACKET_BYTES or end - begin == PACKET_PAYLOADS):
                self._send_group(payloads[begin:end], now, effects)
                begin, size = end, 0
            size += len(payload)
        self._send_group(payloads[begin:], now, effects)
        return effects

    def _send_group(self, payloads: Sequence[bytes], now: float, effects: list[LinkEffect]) -> None:
        """One packet of these payloads, which fit into one."""
        count = len(payloads)
        parts = tuple(payloads) if count == 1 else (struct.pack(f"!{count}I", *map(len, payloads)), *payloads)
        sent = _Sent(self._next_out, self._next_out + count - 1, parts, sum(map(len, parts)), now)
        if not self._unacked:
            self._outstanding_since = now
            self._back_off = 1
            self._resend_at = now + self._timeout
        self._unacked.append(sent)
        self._next_out += count
        self.unacked_bytes += sent.size
        effects.append(self._transmit(sent, now))

    def _transmit(self, sent: _Sent, now: float) -> Transmit:
        return Transmit(self._header(sent.first, sent.last - sent.first + 1, now) + b"".join(sent.parts))

    def _header(self, first: int, count: int, now: float) -> bytes:
        """A header that acknowledges all that was received."""
        self._ack_at = None
        self._packets_to_ack = 0
        self._last_sent = now
        peer = self._peer or _NOBODY
        return _HEADER.pack(self._me, peer, self._epoch, self._peer_epoch, first, self._next_in - 1, count)

    def _empty(self, now: float) -> Transmit:
        return Transmit(self._header(0, 0, now))

    def _hello(self, now: float) -> list[LinkEffect]:
        """Ask whoever is there for its incarnation, ever more rarely."""
        self._hello_at = now + self._hello_wait
        self._hello_wait = min(2 * self._hello_wait, MAX_TIMEOUT_S)
        return [self._empty(now)]

    # ------------------------------------------------------------------------------ receiving
    def received(self, packet: bytes, now: float) -> list[LinkEffect]:
        """Take a packet from the network. One that is no packet of a link is as good as lost."""
        if len(packet) < HEADER_BYTES:
            return []
        sender, to, epoch, echo, first, ack, count = _read_header(packet)
        effects: list[LinkEffect] = []
        if sender != self._peer or to != self._me:
            if to != self._me or echo != self._epoch:
                # It takes me for an earlier life, or for nobody yet, or is itself an earlier life of the peer.
                return [self._answer(sender, epoch, now)]
            self._accept(sender, epoch, now, effects)
        self._last_heard = now
        self._silent = False
        if epoch > self._peer_epoch:
            self._peer_epoch = epoch
        if self._unacked and ack >= self._unacked[0].last:
            self._acknowledged(ack, now, effects)
        if self._asked:
            self._asked = False
            self._resend_all(now, effects)
        if count:
            self._take(first, count, packet, now, effects)
        elif first == RESUMED:
            self._resend_all(now, effects)
            effects.append(self._empty(now))
        return effects

    def _answer(self, stranger: bytes, epoch: int, now: float) -> Transmit:
        """Tell the sender of a packet that cannot be accepted who I am and in which epoch."""
        if stranger == self._peer:
            self._peer_epoch = max(epoch, self._peer_epoch)
            return self._empty(now)
        return Transmit(_HEADER.pack(self._me, stranger, self._epoch, epoch, 0, 0, 0))

    def _accept(self, peer: bytes, epoch: int, now: float, effects: list[LinkEffect]) -> None:
        if self._peer is not None:
            effects.append(PeerRestarted(sum(sent.last - sent.first + 1 for sent in self._unacked)))
        self._peer = peer
        self._epoch += 1
        self._reset(epoch)
        self._hello_at = None
        waiting, self._waiting = self._waiting, []
        # The peer accepts me by this packet, if it did not before.
        effects += self.send(waiting, now) or [self._empty(now)]

    def _acknowledged(self, ack: int, now: float, effects: list[LinkEffect]) -> None:
        """The peer has all up to `ack`, and it had not the first of the packets that are kept."""
        unacked = self._unacked
        if ack >= self._next_out:
            return  # never sent: garbled
        sent = unacked[0]
        while unacked and unacked[0].last <= ack:
            sent = unacked.popleft()
            self.unacked_bytes -= sent.size
        if sent.first > self._recover_to:
            self._measure(now - sent.sent_at)
        if not unacked:
            self._resend_at = None
            return
        self._back_off = 1
        self._resend_at = now + self._timeout
        if ack < self._recover_to and ack == self._resent_to:
            self._burst *= 2
            self._resend(now, effects)

    def _measure(self, round_trip: float) -> None:
        """The time-out is the mean round trip and four times its mean deviation, as in TCP (RFC 6298)."""
        if self._round_trip:
            self._variation += (abs(round_trip - self._round_trip) - self._variation) / 4
            self._round_trip += (round_trip - self._round_trip) / 8
        else:
            self._round_trip, self._variation = round_trip, round_trip / 2
        self._timeout = min(max(self._round_trip + 4 * self._variation, MIN_TIMEOUT_S), MAX_TIMEOUT_S)

    def _take(self, first: int, count: int, packet: bytes, now: float, effects: list[LinkEffect]) -> None:
        """Deliver a packet's payloads if it is the next one, keep it if it is early."""
        if first != self._next_in:
            if first < self._next_in:
                effects.append(self._empty(now))  # it was sent again: the acknowledgement was lost, or is late
            elif first not in self._early and self._early_bytes + len(packet) <= EARLY_BYTES:
                self._early[first] = count, packet
                self._early_bytes += len(packet)
            return
        payloads = _payloads(packet, count)
        if payloads is None:
            return
        self._next_in += count
        packets = 1
        while self._early and (kept := self._early.pop(self._next_in, None)) is not None:
            count, packet = kept
            self._early_bytes -= len(packet)
            more = _payloads(packet, count)
            if more is None:
                break
            payloads += more
            self._next_in += count
            packets += 1
        effects.append(Deliver(payloads))
        self._packets_to_ack += packets
        if self._packets_to_ack >= ACK_PACKETS:
            effects.append(self._empty(now))
        elif self._ack_at is None:
            self._ack_at = now + ACK_DELAY_S

    # ------------------------------------------------------------------------------ time
    def next_wake(self) -> float | None:
        """When `tick` has something to do, if nothing happens before. None: never."""
        wake = self._ack_at
        if self._resend_at is not None and (wake is None or self._resend_at < wake):
            wake = self._resend_at
        if self._hello_at is not None and (wake is None or self._hello_at < wake):
            wake = self._hello_at
        if self._heartbeat_s is not None and self._peer is not None:
            beat_at = self._last_sent + self._heartbeat_s
            wake = beat_at if wake is None or beat_at < wake else wake
        silent_at = self._silent_at()
        if silent_at is not None and (wake is None or silent_at < wake):
            wake = silent_at
        return wake

    def tick(self, now: float) -> list[LinkEffect]:
        """Do what time alone makes due. Calling it too early does nothing."""
        effects: list[LinkEffect] = []
        if self._hello_at is not None and now >= self._hello_at:
            effects += self._hello(now)
        if self._resend_at is not None and now >= self._resend_at:
            self._back_off = min(2 * self._back_off, 64)
            self._resend_all(now, effects)
        if self._ack_at is not None and now >= self._ack_at:
            effects.append(self._empty(now))
        if self._heartbeat_s is not None and self._peer is not None and now >= self._last_sent + self._heartbeat_s:
            effects.append(self._empty(now))
        silent_at = self._silent_at()
        if silent_at is not None and now >= silent_at:
            self._silent = True
            effects.append(PeerSilent(now - silent_at + self._silence_s))
        return effects

    def _silent_at(self) -> float | None:
        """When the peer's silence becomes worth telling."""
        if self._silent:
            return None
        if self._heartbeat_s is not None:
            return self._last_heard + self._silence_s
        if self._unacked or self._waiting:
            return max(self._last_heard, self._outstanding_since) + self._silence_s
        return None

    def _resend_all(self, now: float, effects: list[LinkEffect]) -> None:
        """Begin to send again what is not acknowledged; acknowledgements keep it going."""
        if not self._unacked:
            return
        self._resend_at = now + min(self._timeout * self._back_off, MAX_TIMEOUT_S)
        self._recover_to = self._next_out - 1
        self._resent_to = 0
        self._burst = RESEND_BYTES
        self._resend(now, effects)

    def _resend(self, now: float, effects: list[LinkEffect]) -> None:
        """Send a burst of the oldest packets again, going on after those of the burst before."""
        room = self._burst
        for sent in self._unacked:
            if sent.last > self._recover_to or room <= 0:
                return
            if sent.first > self._resent_to:
                effects.append(self._transmit(sent, now))
                self._resent_to = sent.last
                room -= sent.size

    # ------------------------------------------------------------------------------ another process goes on with it
    @property
    def heard_at(self) -> float:
        """When the last packet came from the peer; before the first one, when this end began."""
        return self._last_heard

    @property
    def epoch(self) -> int:
        """How many peers were accepted."""
        return self._epoch

    @property
    def accepted(self) -> tuple[bytes, int]:
        """The peer, and its epoch: for `replay_accepted`."""
        return self._peer or _NOBODY, self._peer_epoch

    @property
    def numbers(self) -> tuple[int, int]:
        """Of the next payload to come, and of the next to go."""
        return self._next_in, self._next_out

    @property
    def acknowledged(self) -> int:
        """The last payload that the peer has."""
        return self._unacked[0].first - 1 if self._unacked else self._next_out - 1

    def replay_accepted(self, peer: bytes, epoch: int, now: float) -> None:
        """The life before accepted this peer."""
        self._accept(peer, epoch, now, [])

    def replay_received(self, payloads: int, acknowledged: int, now: float) -> None:
        """The life before delivered so many, when the peer had so many of what was sent to it."""
        self._next_in += payloads
        if self._unacked and acknowledged >= self._unacked[0].last:
            self._acknowledged(acknowledged, now, [])

    def resumed(self, now: float) -> list[LinkEffect]:
        """All was replayed (or this is a copy of the link as it was): go on. Call it once, first of all."""
        self._early.clear()  # not acknowledged, so they come again
        self._early_bytes = 0
        self._last_heard = self._last_sent = self._outstanding_since = now
        self._silent = False
        self._back_off = 1
        # Single payloads: the peer drops a packet of which it has the first, as it may if packets are cut otherwise.
        payloads = [payload for sent in self._unacked for payload in _payloads_of(sent)]
        first = self._next_out - len(payloads)
        sent = (_Sent(first + n, first + n, (payload,), len(payload), now) for n, payload in enumerate(payloads))
        self._unacked = deque(sent)
        self.unacked_bytes = sum(map(len, payloads)) + sum(map(len, self._waiting))
        self._resend_at = now + self._timeout if payloads else None
        self._recover_to = self._next_out - 1
        if self._peer is None:
            return self._hello(now) if self._waiting or self._heartbeat_s is not None else []
        self._asked = True
        return [Transmit(self._header(RESUMED, 0, now))]


def _payloads_of(sent: _Sent) -> tuple[bytes, ...]:
    return sent.parts if sent.first == sent.last else sent.parts[1:]


def _payloads(packet: bytes, count: int) -> list[bytes] | None:
    """The payloads of a packet; None if their lengths do not add up to its own."""
    if count == 1:
        return [packet[HEADER_BYTES:]]
    at = HEADER_BYTES + 4 * count
    if at > len(packet):
        return None
    payloads: list[bytes] = []
    for length in struct.unpack_from(f"!{count}I", packet, HEADER_BYTES):
        payloads.append(packet[at : at + length])
        at += length
    return payloads if at == len(packet) else None
