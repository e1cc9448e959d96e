"""Plays the stories of this folder to a model and compares what it wishes for, line by line.

A story begins with `node a CPU=2` or `head`. Then come blocks: lines of what happens, `---`, lines of what the model
wants done. `#` begins a comment. What happens is one of

    d: RequestLeases([L1], cpu(1), [])   a message from d
    exited w1 killed by SIGKILL          the zygote reaped it           closed d   its connection closed
    register                             all workers started so far come up
    join b CPU=4                         head: a node joins             table b c  node: the head tells of these
    lost b it is silent                  a peer is silent past the limit
    spilled 1    unspilled 1 disk full   file 1 of spilled objects is written, or not for want of space
    restored o1                          it was read back
    sleep 1.5                            seconds pass; the clock ticks when the model asked for it

    mute b                               head: b is heard no more (in a story, all others are, whenever the clock ticks)

Names: nodes a b c; drivers d e on a, bd on b, cd on c; workers w1 w2 .. on a, bw1 .. on b; leases L1 .. of d,
M1 .. of e, BL1 .. of bd; objects o1 .. of d, p1 .. of bd; actors A1 .. of d; groups G1 .. of d; raylets ra rb;
HEAD.
`WakeAt` is never shown, `NodeBeat` neither. After a meant change: `--bless`, then read the difference.
"""

from __future__ import annotations

import inspect
from math import inf
from pathlib import Path
from typing import Any

import pytest

from sparkray_core import messages
from sparkray_core.ids import HEAD, HEAD_NODE, ActorId, FunctionId, GroupId, ProcessId
from sparkray_core.model.effects import Effect, LookForSigns, Send, StartWorker, WakeAt
from sparkray_core.model.events import (
    ClockTicked,
    ConnectionLost,
    Event,
    PeerLost,
    PeersHeard,
    Received,
    Restored,
    Spilled,
    SpillFailed,
    WorkerExited,
)
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node import Node
from sparkray_core.model.resources import show
from sparkray_core.testing.builders import a_node, an_object, lease_id, node_id, node_info, process_id, raylet

FOLDER = Path(__file__).parent
STORIES = sorted(FOLDER.glob("*.txt"))


def _names() -> dict[str, Any]:
    names: dict[str, Any] = {"HEAD": HEAD, "head": HEAD_NODE}
    for node in "abc":
        names[node], names["r" + node] = node_id(node), raylet(node)
        prefix = "" if node == "a" else node
        for driver in "de":
            names[prefix + driver] = process_id(node_id(node), driver)
        for n in range(1, 10):
            names[f"{prefix}w{n}"] = ProcessId(node_id(node) + n.to_bytes(8, "big"))
    for n in range(1, 10):
        names[f"L{n}"], names[f"M{n}"] = lease_id(names["d"], n), lease_id(names["e"], n)
        names[f"BL{n}"] = lease_id(names["bd"], n)
        names[f"o{n}"], names[f"p{n}"] = an_object(names["d"], n), an_object(names["bd"], n)
        names[f"A{n}"] = ActorId(lease_id(names["d"], 100 + n))
        names[f"G{n}"] = GroupId(lease_id(names["d"], 200 + n))
    return names


NAMES = _names()
SHOWN = {value: name for name, value in reversed(NAMES.items())}


def _scope() -> dict[str, Any]:
    def cpu(amount: float) -> dict[str, int]:
        return {"CPU": round(amount * 1000)} if amount else {}

    def create(actor: ActorId, restarts: int = 0, hold: float = 1) -> messages.CreateActor:
        return messages.CreateActor(actor, "Toy", FunctionId(b""), b"", b"", None, cpu(hold), cpu(1), restarts)

    def start(actor: ActorId, hold: float = 1) -> messages.StartActor:
        return messages.StartActor(actor, 0, "Toy", FunctionId(b""), b"", b"", None, cpu(hold), cpu(1))

    def group(some: GroupId, strategy: str, *cpus: float) -> messages.CreateGroup:
        return messages.CreateGroup(0, some, "", [cpu(amount) for amount in cpus], strategy, (), False, "")

    def within(some: GroupId, index: int = -1) -> tuple[Any, ...]:
        return ("group", some, index, False)

    return {**vars(messages), **NAMES, "cpu": cpu, "create": create, "start": start, "group": group, "within": within}


SCOPE = _scope()


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return SHOWN.get(value) or (f"{len(value)} bytes" if value else "-")
    if isinstance(value, messages.NodeTable):
        return f"NodeTable({' '.join(SHOWN[n['node']] + ('' if n['alive'] else '(dead)') for n in value.nodes)})"
    if isinstance(value, (messages.StartActor, messages.JoinNode)):
        first = list(_fields(value).values())[:2]
        return f"{type(value).__name__}({', '.join(map(_show, first))}, ...)"
    if hasattr(value, "__match_args__"):
        return f"{type(value).__name__}({', '.join(map(_show, _telling(value)))})"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(map(_show, value))}]"
    if isinstance(value, dict):
        return show(value)
    return str(value)


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__match_args__}


def _telling(value: Any) -> list[Any]:
    """Its fields' values, without those at the end that are what they are when nobody gives them."""
    fields = _fields(value)
    for name, parameter in reversed([*inspect.signature(type(value)).parameters.items()]):
        if parameter.default != fields[name]:
            break
        del fields[name]
    return list(fields.values())


def _line(effect: Effect) -> str:
    return f"{type(effect).__name__} {' '.join(map(_show, _fields(effect).values()))}"


class Player:
    def __init__(self) -> None:
        self.model: Node | Head | None = None
        self.now = 0.0
        self.wake: float | None = None
        self.unborn: list[ProcessId] = []
        self.shown: list[str] = []
        self.muted: set[bytes] = set()

    def play(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word.endswith(":"):
            self._event(Received(NAMES[word[:-1]], eval(rest, dict(SCOPE))))
        elif word == "node":
            name, *amounts = rest.split()
            self.model = a_node(
                name, NodeLimits(chunk_bytes=100, chunks_ahead=2), store_bytes=1024, **_amounts(amounts)
            )
            self._wishes(self.model.start(self.now))
        elif word == "head":
            self.model = Head("story")
            self._wishes(self.model.start(self.now))
        elif word == "register":
            while self.unborn:
                self._event(Received(self.unborn.pop(0), messages.RegisterProcess("worker", 1)))
        elif word == "join":
            name, *amounts = rest.split()
            self._event(Received(raylet(name), node_info(name, **_amounts(amounts)).join()))
        elif word == "table":
            infos = [node_info(name, CPU=4).as_dict() for name in rest.split()]
            self._event(Received(HEAD, messages.NodeTable(infos)))
        elif word in ("exited", "lost", "closed"):
            name, _, why = rest.partition(" ")
            facts = {"exited": WorkerExited, "lost": PeerLost}
            self._event(facts[word](NAMES[name], why) if word in facts else ConnectionLost(NAMES[name]))
        elif word == "spilled":
            self._event(Spilled(int(rest)))
        elif word == "unspilled":
            number, _, why = rest.partition(" ")
            self._event(SpillFailed(int(number), why, True))
        elif word == "restored":
            self._event(Restored(NAMES[rest]))
        elif word == "mute":
            self.muted.add(NAMES[rest])
        elif word == "sleep":
            self._sleep(self.now + float(rest))
        else:
            raise ValueError(f"a story cannot say {line!r}")

    def _sleep(self, until: float) -> None:
        while self.wake is not None and self.wake <= until:
            self.now, self.wake = self.wake, None
            if isinstance(self.model, Head):  # in a story nodes live until it says otherwise
                self._keep_alive(self.model)
            self._event(ClockTicked())
        self.now = until

    def _keep_alive(self, head: Head) -> None:
        for record in head.nodes.alive():
            if record.info.node not in self.muted:
                record.heard = self.now

    def _event(self, event: Event) -> None:
        assert self.model is not None
        effects = self.model.handle(event, self.now)
        check(self.model)
        self._wishes(effects)

    def _wishes(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, WakeAt):
                self.wake = effect.at if self.wake is None else min(self.wake, effect.at)
            elif not isinstance(effect, LookForSigns) and not (
                isinstance(effect, Send) and isinstance(effect.message, messages.NodeBeat)
            ):
                self.shown.append(_line(effect))
            if isinstance(effect, LookForSigns):  # of those that are not muted something had come
                self._event(PeersHeard(dict.fromkeys(effect.nodes, inf)))
            if isinstance(effect, StartWorker):
                self.unborn.append(effect.worker)


def _amounts(words: list[str]) -> dict[str, Any]:
    return {name: float(amount) for name, amount in (word.split("=") for word in words)}


def replay(text: str) -> str:
    """The story, with what happens now in place of what it says."""
    player = Player()
    told: list[str] = []
    expected = False
    for line in text.splitlines():
        if line == "---":
            expected = True
            told += [line, *(player.shown or ["(nothing)"])]
            player.shown = []
        elif not line:
            expected = False
            told.append(line)
        elif not expected:
            told.append(line)
            if not line.startswith("#"):
                player.play(line)
    assert not player.shown, f"the story ends before it tells of {player.shown}"
    return "\n".join(told) + "\n"


@pytest.mark.parametrize("path", STORIES, ids=[path.stem for path in STORIES])
def test_story_is_still_true(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    happens = replay(text)
    if request.config.getoption("--bless", default=False):
        path.write_text(happens)
    else:
        assert happens.splitlines() == text.splitlines()
