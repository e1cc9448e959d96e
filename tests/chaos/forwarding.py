"""The process through which the packets of a `network.Net` go: they take time there, and some are lost.

python forwarding.py SEED DESCRIPTOR...    of TUN devices, in the order of their hosts: addresses end in 1, 2, ...


A line on stdin is a `Weather`, as JSON; it is answered by what was counted so far. With the end of stdin it ends.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import random
import select
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_LARGEST = 1 << 16  # of a packet
_AT_ONCE = 64  # packets of one device, before those that are due are sent
_DESTINATION = 19  # the last byte of an IPv4 packet's destination: its host


class Weather(NamedTuple):
    """Of all lines."""

    delay_s: float = 0.0  # one way
    jitter_s: float = 0.0  # at most so much more or less. Packets of one line stay in order
    loss: float = 0.0  # share of the packets
    bytes_per_s: float = 0.0  # of each line; 0: no limit
    queue_s: float = 0.5  # packets that would have to wait longer for their turn are lost
    cut: Sequence[int] = ()  # hosts that nobody reaches, and that reach nobody


class Line:
    """From one host to another. It decides; the loop below does."""

    def __init__(self, seed: str) -> None:
        self._dice = random.Random(seed)
        self._free = self._last = 0.0  # when what was taken has been sent; when the last one comes

    def due(self, size: int, now: float, weather: Weather) -> float | None:
        """When a packet of so many bytes comes to its end; None: it is lost."""
        lost, more = self._dice.random() < weather.loss, self._dice.uniform(-1, 1) * weather.jitter_s
        sent = now
        if weather.bytes_per_s:
            if self._free - now > weather.queue_s:
                return None
            sent = self._free = max(now, self._free) + size / weather.bytes_per_s
        if lost:
            return None
        self._last = max(self._last, sent + weather.delay_s + more)
        return self._last


def main(seed: str, *words: str) -> None:
    devices = [int(word) for word in words]
    hosts = {device: number for number, device in enumerate(devices)}
    pairs = itertools.permutations(range(len(devices)), 2)
    lines = {(here, there): Line(f"{seed} {here} {there}") for here, there in pairs}
    weather, counts = Weather(), Counter(passed=0, lost=0, cut=0)
    waiting: list[tuple[float, int, int, bytes]] = []  # due, a number, to which device, the packet
    numbers = itertools.count()
    poll = select.poll()
    for descriptor in (0, *devices):
        poll.register(descriptor, select.POLLIN)
    said = b""
    while True:
        rest = max(0.0, 1000 * (waiting[0][0] - time.monotonic())) if waiting else None
        for descriptor, _ in poll.poll(rest):
            if descriptor == 0:
                more = os.read(0, 4096)
                if not more:
                    return
                *orders, said = (said + more).split(b"\n")
                for order in orders:
                    weather = Weather(**json.loads(order))
                    sys.stdout.write(json.dumps(counts) + "\n")
                    sys.stdout.flush()
                continue
            here = hosts[descriptor]
            for packet in _read(descriptor):
                there = packet[_DESTINATION] - 1 if packet[0] >> 4 == 4 else -1  # IPv6 only asks for neighbours here
                if (here, there) not in lines:
                    continue
                if here in weather.cut or there in weather.cut:
                    counts["cut"] += 1
                    continue
                due = lines[here, there].due(len(packet), time.monotonic(), weather)
                if due is None:
                    counts["lost"] += 1
                    continue
                counts["passed"] += 1
                heapq.heappush(waiting, (due, next(numbers), devices[there], packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, device, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # its queue is full: such a packet is lost, as on any network
                os.write(device, packet)


def _read(device: int) -> list[bytes]:
    packets: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while len(packets) < _AT_ONCE:
            packets.append(os.read(device, _LARGEST))
    return packets


if __name__ == "__main__":
    main(*sys.argv[1:])
