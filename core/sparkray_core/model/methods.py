"""A method of an actor as it travels in a call: which, in what concurrency group, and when it is called again.

    name [ \\0 group [ \\0 retries \\0 classes ]]

Most calls are a bare name. `retries` is how often the method may be called again in the same life of the actor when it
raises one of `classes`: b"*" for all, else a pickle of their tuple.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

ANY_EXCEPTION = b"*"


class Method(NamedTuple):
    name: str
    group: str = ""  # empty: the method's own, or the default one
    retries: int = 0  # -1: without end
    retried: bytes = b""  # empty: what it raises is its answer


def encode(method: Method) -> bytes:
    name, group, retries, retried = method
    if retried and retries:
        return b"%s\0%s\0%d\0%s" % (name.encode(), group.encode(), retries, retried)
    return f"{name}\0{group}".encode() if group else name.encode()


@lru_cache(maxsize=256)  # an actor is called by the same few names again and again
def decode(wired: bytes) -> Method:
    name, *more = wired.split(b"\0", 3)
    if not more:
        return Method(name.decode())
    if len(more) == 1:
        return Method(name.decode(), more[0].decode())
    return Method(name.decode(), more[0].decode(), int(more[1]), more[2])
