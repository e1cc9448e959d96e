"""`explain(ref)`: why a value is not there yet, in a sentence and as data."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field
from typing import Any

from sparkray.actor_handle import ActorHandle
from sparkray.placement_groups import PlacementGroup, group_id
from sparkray.session import core
from sparkray_core.ids import HEAD, ActorId, GroupId, ObjectId, ProcessId, node_of, owner_of, raylet_of, task_id
from sparkray_core.messages import DescribeGroups
from sparkray_core.model.resources import show
from sparkray_core.model.where import group_of, needs, split_name
from sparkray_core.model.where import show as show_where
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.survey import ask_nodes, inspect

DEEPEST = 20  # links of a chain of waiting tasks that are told


@dataclass
class Explanation:
    """Where something stands. `str` of it is the sentence, with those of what it waits for below."""

    subject: str  # what is explained: "task f (id)" or "actor Cls (id)"
    state: str  # FINISHED, FAILED, RUNNING, or what it waits for: see `explain`
    sentence: str
    facts: dict[str, Any] = field(default_factory=dict)
    because: list[Explanation] = field(default_factory=list)  # what it waits for, explained in turn

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.state in ("FINISHED", "FAILED", "ALIVE", "DEAD")

    def __str__(self) -> str:
        return "\n".join(self._lines(0))

    def __repr__(self) -> str:
        return str(self)

    def _lines(self, depth: int) -> list[str]:
        lines = ["  " * depth + f"{self.subject}: {self.sentence}"]
        for inner in self.because:
            lines += inner._lines(depth + 1)
        return lines

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
            for name, value in self.facts.items()
        )
        inner = "".join(f"<li>{one._repr_html_()}</li>" for one in self.because)
        return (
            f"<div><b>{html.escape(self.subject)}</b> {html.escape(self.state)}: {html.escape(self.sentence)}"
            f"<details><summary>facts</summary><table>{rows}</table></details><ul>{inner}</ul></div>"
        )


def explain(what: ObjectRef[Any] | ActorHandle[Any] | PlacementGroup) -> Explanation:
    """Why the value of a reference is not there yet, or where an actor is.

    The state is one of

        FINISHED, FAILED           there is nothing to wait for
        RUNNING                    since when, where, in which process
        WAITS_FOR_ARGUMENTS        which ones; each is explained in `because`
        QUEUED_ON_WORKER           a worker has it, behind other tasks
        WAITS_FOR_LEASE            what it asks for, and what each node has free
        WAITS_FOR_WORKER           its resources are there; a process is being started
        INFEASIBLE                 no node could ever hold it, and when it will fail for that
        WAITS_FOR_PLACEMENT_GROUP  `because` says why that is not there
        WAITS_FOR_ACTOR            of a call: its actor is not alive yet; `because` says why
        WAITS_FOR_EARLIER_CALLS    of a call: those before it are not done, or wait for arguments
        UNKNOWN                    its owner is gone, or knows nothing of it

    of an actor PENDING, ALIVE, RESTARTING or DEAD, and of a placement group PENDING, CREATED, RESCHEDULING or REMOVED.

    Raises:
        TypeError: neither a reference nor a handle nor a placement group.
    """
    here = core()
    if isinstance(what, PlacementGroup):
        return _group(here, group_id(what))
    if isinstance(what, ActorHandle):
        return _actor(here, what._actor.id)
    if not isinstance(what, ObjectRef):
        raise TypeError(
            f"explain() takes an ObjectRef, an actor handle or a placement group, not {type(what).__name__}"
        )
    here.kick()
    here.export(what)  # so that its owner, if that is this process, finds it by its id
    return _object(here, what._entry.id, DEEPEST)


def _object(here: Core, some: ObjectId, depth: int) -> Explanation:
    owner = owner_of(some)
    found = inspect(here, owner, "explain", some)
    task = task_id(owner, int.from_bytes(some[16:24], "big")).hex()
    if found is None:
        return Explanation(f"object {some.hex()}", "UNKNOWN", f"its owner {owner.hex()} does not answer", {})
    name = found.get("name")
    subject = f"{name}() [{task}]" if name else f"object {some.hex()}"
    facts = {key: _shown(value) for key, value in found.items()} | {"task_id": task, "owner": owner.hex()}
    state = found["state"]
    if state == "FINISHED":
        return Explanation(subject, "FINISHED", _finished(here, some, found), facts)
    if state == "FAILED":
        why = f"{found['error']}: {found['sentence']}" if found["error"] else "it raised; get() raises the error"
        return Explanation(subject, "FAILED", f"failed: {why}", facts)
    if state == "MISSING":
        because = [_object(here, one, depth - 1) for one in found["waits_for"]] if depth else []
        count = len(found["waits_for"])
        sentence = f"waits{_since(found)} for {count} argument{'s' * (count > 1)}"
        return Explanation(subject, "WAITS_FOR_ARGUMENTS", sentence, facts, because)
    if state in ("PUSHED", "CALL_PUSHED"):
        return _pushed(here, some, subject, found, facts)
    if state == "QUEUED":
        return _queued(here, subject, found, facts)
    if state == "CALL_QUEUED":
        return _call(here, subject, found, facts, depth)
    sentence = "its owner knows nothing of it: it was freed, or its value is being written"
    return Explanation(subject, "UNKNOWN", sentence, facts)


def _finished(here: Core, some: ObjectId, found: dict[str, Any]) -> str:
    if not found["nodes"]:
        return "is there"
    nodes = ", ".join(node.hex() for node in found["nodes"])
    sentence = f"is there: {found['size']:,} bytes in the store of {nodes}"
    store = here.ask(here.raylet_id, "objects") or {"pulls": []}
    for pulled, source, size, got, waits in store["pulls"]:
        if pulled == some:
            state = "which waits for room here" if waits else f"{got:,} of {size:,} bytes have come"
            sentence += f"; it is being pulled from node {source.hex()}, {state}"
    return sentence


def _since(found: dict[str, Any]) -> str:
    return f" since {found['waits_s']:.1f} s" if "waits_s" in found else ""


def _pushed(here: Core, some: ObjectId, subject: str, found: dict[str, Any], facts: dict[str, Any]) -> Explanation:
    worker: ProcessId = found["worker"]
    told = inspect(here, worker, "running")
    where = f"worker {worker.hex()} on node {node_of(worker).hex()}"
    if told is None:
        return Explanation(subject, "RUNNING", f"{where} has it, and does not answer", facts)
    where = f"pid {told['pid']} ({where})"
    facts |= {"pid": told["pid"], "node_id": node_of(worker).hex(), "worker_id": worker.hex()}
    for owner, count, _, begin in told["active"]:
        if (owner, count) == (owner_of(some), found["number"]):
            facts["running_s"] = told["clock"] - begin
            sentence = f"runs since {facts['running_s']:.1f} s in {where}"
            return Explanation(subject, "RUNNING", sentence + _pulls(here, worker, found["args"]), facts)
    runs = ", ".join(sorted({told["names"][row[2]][0] for row in told["active"]})) or "nothing just now"
    facts["runs_now"] = runs
    sentence = f"queued behind {found['ahead']} of this owner's tasks in {where}, which runs {runs}"
    return Explanation(subject, "QUEUED_ON_WORKER", sentence, facts)


def _pulls(here: Core, worker: ProcessId, args: list[ObjectId]) -> str:
    """What the worker's node is fetching for it."""
    store = ask_nodes(here, "objects").answers.get(raylet_of(node_of(worker))) or {"pulls": []}
    pulls = [pull for pull in store["pulls"] if pull[0] in args]
    pulled = [f"{source.hex()} ({got:,} of {size:,} bytes)" for _, source, size, got, _ in pulls]
    return f"; an argument is being pulled from node {', '.join(pulled)}" if pulled else ""


def _queued(here: Core, subject: str, found: dict[str, Any], facts: dict[str, Any]) -> Explanation:
    wanted = show(found["resources"]) + show_where(found["where"])
    hopeless = dict(here.ask(HEAD, "hopeless"))
    left = [hopeless[lease] for lease in found["requests"] if hopeless.get(lease, math.inf) < math.inf]
    nodes = list(ask_nodes(here, "claims").answers.values())
    facts["nodes"] = {
        node["node"].hex(): {"total": _units(node["resources"]), "free": _units(node["available"])} for node in nodes
    }
    asked = needs(found["resources"], found["where"])
    offers = "; ".join(
        f"node {node['node'].hex()} has {_of(node['available'], asked)} free of {_of(node['resources'], asked)}"
        for node in nodes
    )
    if left:
        facts["fails_in_s"] = min(left)
        sentence = (
            f"asks for {wanted}, which no node can ever grant; fails in {min(left):.0f} s unless one joins ({offers})"
        )
        return Explanation(subject, "INFEASIBLE", sentence, facts)
    group = group_of(found["where"])
    waited = None if group is None else _group(here, group)
    if waited is not None and waited.state != "CREATED":
        return Explanation(subject, "WAITS_FOR_PLACEMENT_GROUP", "waits for its placement group", facts, [waited])
    requests = set(found["requests"])
    mine = [(claim, node) for node in nodes for claim in node["claims"] if claim["lease"] in requests]
    for claim, node in mine:
        if claim["state"] == "reserved":
            where = node["node"].hex()
            sentence = f"has {wanted} on node {where}, and waits for a worker process since {claim['for_s']:.1f} s"
            return Explanation(subject, "WAITS_FOR_WORKER", sentence, facts)
    ahead = f"{found['ahead']} tasks like it stand before it" if found["ahead"] else "it is the next of its kind"
    busy = f", and {len(found['workers'])} workers work on such tasks" if found["workers"] else ""
    sentence = f"waits{_since(found)} for a worker with {wanted} ({offers}); {ahead}{busy}"
    facts["leases_waiting"] = sum(claim["state"] == "waiting" for claim, _ in mine)
    return Explanation(subject, "WAITS_FOR_LEASE", sentence, facts)


def _call(here: Core, subject: str, found: dict[str, Any], facts: dict[str, Any], depth: int) -> Explanation:
    if found["actor_state"] != "alive":
        actor = _actor(here, found["actor"])
        return Explanation(subject, "WAITS_FOR_ACTOR", "waits for its actor to be alive", facts, [actor])
    because = [_object(here, one, depth - 1) for one in found["held_up_by"]] if depth else []
    held = ", of which one waits for an argument" if because else ""
    sentence = f"waits for {found['ahead']} earlier calls{held}"
    return Explanation(subject, "WAITS_FOR_EARLIER_CALLS", sentence, facts, because)


def _actor(here: Core, actor: ActorId) -> Explanation:
    found = next((facts for facts in here.ask(HEAD, "actors") if facts["actor"] == actor), None)
    if found is None:
        return Explanation(f"actor {actor.hex()}", "UNKNOWN", "the head does not know it (yet, or any more)", {})
    subject = f"actor {found['name']} [{actor.hex()}]"
    facts = {key: _shown(value) for key, value in found.items()}
    state = found["state"].upper()
    because: list[Explanation] = []
    if state == "ALIVE":
        sentence = f"lives on node {node_of(found['worker']).hex()}, in worker {found['worker'].hex()}"
    elif state == "DEAD":
        sentence = f"is dead: {found['why']}"
    elif not found["placed"]:
        sentence = "is not placed: " + found["story"][-1]
        if found["group"] is not None:
            waited = _group(here, found["group"])
            if waited.state != "CREATED":
                sentence = "waits for its placement group"
                because.append(waited)
    else:
        sentence = _placed(here, actor, found)
    if state == "RESTARTING":
        sentence = f"is restarted ({found['incarnation']}. time) because {found['why']}; it {sentence}"
    return Explanation(subject, state, sentence, facts, because)


def _group(here: Core, group: GroupId) -> Explanation:
    found = here.request(HEAD, lambda number: DescribeGroups(number, [group]))
    subject = f"placement group {group.hex()}"
    if not found:
        return Explanation(subject, "UNKNOWN", "the head does not know it (yet, or any more)", {})
    facts = {key: _shown(value) for key, value in found[0].items()}
    state = found[0]["state"]
    nodes = ", ".join(sorted({node.hex() for node in found[0]["places"].values()}))
    if state == "CREATED":
        sentence = f"is there, on {nodes}"
    elif state == "REMOVED":
        sentence = f"was removed: {found[0]['why']}"
    else:
        missing = len(found[0]["bundles"]) - len(found[0]["places"])
        sentence = f"waits since {found[0]['for_s']:.1f} s for {missing} of its bundles: {found[0]['why']}"
    return Explanation(subject, state, sentence, facts)


def _placed(here: Core, actor: ActorId, found: dict[str, Any]) -> str:
    for node in ask_nodes(here, "claims").answers.values():
        for claim in node["claims"]:
            if claim["actor"] == actor:
                where = f"on node {node['node'].hex()}"
                if claim["state"] == "waiting":
                    needs = claim["needs"]
                    free = f"{_of(node['available'], needs)} is free of {_of(node['resources'], needs)}"
                    return f"waits {where} since {claim['for_s']:.1f} s for {show(claim['needs'])}; {free}"
                if claim["state"] == "reserved":
                    return f"waits {where} since {claim['for_s']:.1f} s for its worker process"
                return f"runs its constructor {where} since {claim['for_s']:.1f} s"
    return f"is placed on node {found['node'].hex()}" if found["node"] else "is on its way to a node"


def _of(resources: dict[str, int], asked: dict[str, int]) -> str:
    """Of those that are asked for."""
    return show({split_name(name)[0]: resources.get(name, 0) for name in asked})


def _units(resources: dict[str, int]) -> dict[str, float]:
    return {name: amount / 1000 for name, amount in resources.items()}


def _shown(value: Any) -> Any:
    """Ids as hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [_shown(one) for one in value]
    return value
