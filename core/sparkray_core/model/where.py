"""Where a task or actor may run, as requests carry it: a tuple of primitives, so that it is a key as it is.

    ()                                  on any node
    ("spread", choices)                 on another node each time, of those that one of the choices allows
    ("labels", choices)                 on a node that the first choice allows; if none does, or none has room, the next
    ("node", node, soft, spill, fail)   on that node. soft: elsewhere, if it is gone or could never hold it; spill: also
                                        if it has no room just now; fail: an error then
    ("group", group, index, captures)   in this bundle of the group; -1: in any. captures: so is what it makes in turn

A choice is a tuple of conditions on labels, all of which must hold: (label, how, values), with how being "in", "not in"
(a node without the label is not in either), "exists" or "does not exist".

A bundle that is set aside on a node turns into resources with names of their own, once for its number and once for the
whole group: {"CPU": 2} as bundle 1 into "CPU_group_1_<id>" and "CPU_group_<id>". What runs in it asks for these. So
grants, queues and exact sums need no second way. "bundle_group_..." is for what asks for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparkray_core.ids import GROUP_ID_BYTES, GroupId
from sparkray_core.messages import Resources, Where
from sparkray_core.model.resources import plus

SPREAD, LABELS, NODE, GROUP = "spread", "labels", "node", "group"
ANY_BUNDLE = -1
NO_GROUP = (GroupId(b""), False)

Condition = tuple[str, str, tuple[str, ...]]
Choice = tuple[Condition, ...]

BUNDLE = "bundle"  # what a bundle has a million of, for what asks for nothing
_PLENTY = 1_000_000
_NAMED = re.compile(r"(.+)_group_(?:(\d+)_)?([0-9a-f]{48})")


def group_of(where: Where) -> GroupId | None:
    return where[1] if where and where[0] == GROUP else None


def membership(where: Where) -> tuple[GroupId, bool]:
    """The group that it works in, empty for none; and whether what it makes does, too."""
    return (where[1], where[3]) if where and where[0] == GROUP else NO_GROUP


def in_bundle(wanted: Resources, group: GroupId, index: int) -> Resources:
    """What is asked for, under the names that it has inside the group."""
    suffix = group.hex()
    named: Resources = {}
    for name, amount in (wanted or {BUNDLE: 1}).items():
        named[f"{name}_group_{suffix}"] = amount
        if index != ANY_BUNDLE:
            named[f"{name}_group_{index}_{suffix}"] = amount
    return named


def needs(wanted: Resources, where: Where) -> Resources:
    """What has to be free on a node for it."""
    return in_bundle(wanted, where[1], where[2]) if where and where[0] == GROUP else wanted


def offered(group: GroupId, bundles: Iterable[tuple[int, Resources]]) -> Resources:
    """What these bundles add to what their node has."""
    total: Resources = {}
    for index, resources in bundles:
        total = plus(total, in_bundle({**resources, BUNDLE: _PLENTY}, group, index))
    return total


def plain(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is set aside for groups."""
    return {name: amount for name, amount in resources.items() if _NAMED.fullmatch(name) is None}


def split_name(name: str) -> tuple[str, str, str]:
    """(resource, number of the bundle or "", group in hexadecimal or "")."""
    found = _NAMED.fullmatch(name)
    return (found[1], found[2] or "", found[3]) if found is not None else (name, "", "")


def allows(choice: Choice, labels: Mapping[str, str]) -> bool:
    for label, how, values in choice:
        there = labels.get(label)
        if how == "in":
            holds = there is not None and there in values
        elif how == "not in":
            holds = there is None or there not in values
        else:
            holds = (there is not None) == (how == "exists")
        if not holds:
            return False
    return True


def show(where: Where) -> str:
    """In words, for sentences that go on "a node"; empty for any."""
    if not where:
        return ""
    if where[0] == NODE:
        return f" with id {where[1].hex()}"
    if where[0] == GROUP:
        bundle = "a bundle" if where[2] == ANY_BUNDLE else f"bundle {where[2]}"
        return f" with {bundle} of placement group {where[1].hex()}"
    choices = [_show_choice(choice) for choice in where[1] if choice]
    return f" whose labels are {', or else '.join(choices)}" if choices else ""


def _show_choice(choice: Sequence[Condition]) -> str:
    words = []
    for label, how, values in choice:
        words.append(f"{label} {how}" if how.endswith(("exists", "exist")) else f"{label} {how} ({', '.join(values)})")
    return " and ".join(words)


def is_sound(where: Any) -> bool:
    """Whether it is written as above. What comes from a peer is looked at once, where it comes in."""
    if where == ():
        return True
    match where:
        case ("spread" | "labels", tuple(choices)):
            return all(isinstance(choice, tuple) and all(map(_is_condition, choice)) for choice in choices)
        case ("node", bytes(), bool(), bool(), bool()):
            return True
        case ("group", bytes(group), int(index), bool()):
            return len(group) == GROUP_ID_BYTES and index >= ANY_BUNDLE
        case _:
            return False


def _is_condition(condition: Any) -> bool:
    match condition:
        case (str(), "in" | "not in" | "exists" | "does not exist", tuple(values)):
            return all(isinstance(value, str) for value in values)
        case _:
            return False
