"""Why does nobody answer? Whether it is our key that is not taken."""

from __future__ import annotations

import time

import zmq
from zmq.utils.monitor import recv_monitor_message

_FAILURES_ENOUGH = 2  # a listener that ends in the midst of one handshake has not refused us


def is_refused(address: str, keys: tuple[bytes, bytes], limit_s: float) -> bool:
    """Whether who listens at `address` breaks off the handshake: it has another key, or does not speak our protocol.

    Blocks `limit_s` seconds at most. False is no promise: perhaps nobody listens there.

    Args:
        keys: (public, secret) of the session.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = keys[0], *keys
        dealer.reconnect_ivl = 20
        monitor = dealer.get_monitor_socket()
        try:
            dealer.connect(address)
            return _breaks_off(monitor, time.monotonic() + limit_s)
        finally:
            dealer.disable_monitor()
            monitor.close(0)


def _breaks_off(monitor: zmq.Socket[bytes], deadline: float) -> bool:
    failures = 0
    while (left := deadline - time.monotonic()) > 0:
        if not monitor.poll(int(left * 1000) + 1):
            break
        event = recv_monitor_message(monitor)["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return False
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return True
        if event in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
            failures += 1
            if failures >= _FAILURES_ENOUGH:
                return True
    return False
