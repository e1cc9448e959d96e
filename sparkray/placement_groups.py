"""Placement groups: bundles of resources, set aside all together or not at all, for tasks and actors to come."""

from __future__ import annotations

import math
import numbers
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from sparkray.label_selectors import selector_choice
from sparkray.options import thousandths
from sparkray.session import core
from sparkray_core.errors import PlacementGroupExistsError
from sparkray_core.ids import GROUP_ID_BYTES, HEAD, GroupId, task_id
from sparkray_core.messages import CreateGroup, DescribeGroups
from sparkray_core.model.entries import Entry
from sparkray_core.model.gangs import STRATEGIES
from sparkray_core.model.where import BUNDLE, LABELS
from sparkray_core.run import current_task
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.pump import now
from sparkray_core.wire import values

UNIT = 1000.0


class PlacementGroupID:
    """Says who is meant, wherever it is sent."""

    __slots__ = ("_id",)

    def __init__(self, id: bytes) -> None:
        if len(id) != GROUP_ID_BYTES:
            raise ValueError(f"an id of a placement group has {GROUP_ID_BYTES} bytes, not {len(id)}")
        self._id = bytes(id)

    @classmethod
    def nil(cls) -> PlacementGroupID:
        return cls(b"\xff" * GROUP_ID_BYTES)

    @classmethod
    def from_hex(cls, hex_id: str) -> PlacementGroupID:
        return cls(bytes.fromhex(hex_id))

    @classmethod
    def from_binary(cls, id_bytes: bytes) -> PlacementGroupID:
        return cls(id_bytes)

    @classmethod
    def from_random(cls) -> PlacementGroupID:
        return cls(os.urandom(GROUP_ID_BYTES))

    @classmethod
    def size(cls) -> int:
        return GROUP_ID_BYTES

    def is_nil(self) -> bool:
        return self._id == b"\xff" * GROUP_ID_BYTES

    def binary(self) -> bytes:
        return self._id

    def hex(self) -> str:
        return self._id.hex()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroupID) and self._id == other._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"PlacementGroupID({self.hex()})"

    def __reduce__(self) -> Any:
        return PlacementGroupID, (self._id,)


class PlacementGroup:
    """A handle of a placement group. It can be sent anywhere; that it is let go of means nothing to the group."""

    def __init__(self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None) -> None:
        self.id = id
        self.bundle_cache = bundle_cache  # None: to be asked for

    @staticmethod
    def empty() -> PlacementGroup:
        """Of no group: a task or actor that is given it runs outside of any."""
        return PlacementGroup(PlacementGroupID.nil(), [])

    @property
    def is_empty(self) -> bool:
        return self.id.is_nil()

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A reference whose value is this handle, there as soon as all bundles are.

        If the group is removed before that, `get` of it raises `TaskPlacementGroupRemoved`.
        """
        here = core()
        value = values.to_inline(values.serialize(PlacementGroup(self.id, self.bundle_specs)))
        entry = Entry(here.me, next(here.counter))
        ref: ObjectRef[PlacementGroup] = ObjectRef(entry)
        with here.lock:
            here._perform(here.owner.group_ready(group_id(self), entry, value, now()))
        if here.serial:
            here.look()
        return ref

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Whether all bundles are there within so many seconds.

        Raises:
            TaskPlacementGroupRemoved: the group was removed.
        """
        here = core()
        entry = self.ready()._entry
        here.wait([entry], 1, timeout_seconds)
        if entry.value is None:
            return False
        here.load(entry)
        return True

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle holds."""
        if self.bundle_cache is None:
            self.bundle_cache = bundles_of(core(), group_id(self))
            if self.bundle_cache is None:
                raise RuntimeError(f"nothing is known of placement group {self.id.hex()} and of its bundles")
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        return len(self.bundle_specs)

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id.hex(), "bundle_cache": self.bundle_cache}

    @staticmethod
    def from_dict(facts: Mapping[str, Any]) -> PlacementGroup:
        return PlacementGroup(PlacementGroupID.from_hex(facts["id"]), facts["bundle_cache"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"

    def __reduce__(self) -> Any:
        return PlacementGroup, (self.id, self.bundle_cache)


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: Mapping[str, str] | None = None,
) -> PlacementGroup:
    """Have bundles set aside. Returns at once; `ready()` or `wait()` tell when all of them are there.

    As long as there is no room for all of them none is set aside, and the group waits; `explain` says for what.

    Args:
        bundles: resources by name, for each: {"CPU": 2, "memory": 1 << 30}.
        strategy: "PACK" (the default) on as few nodes as go, "SPREAD" over as many as go, "STRICT_PACK" on one node,
            "STRICT_SPREAD" each on another node.
        name: to find it by, in this namespace: `get_placement_group`.
        lifetime: None: until its creator's job is over. "detached": until it is removed or the session ends.
        bundle_label_selector: for each bundle what the labels of its node must be, as in `label_selector=`.
        _soft_target_node_id, topology_strategy: Ray's. Refused: nothing here would heed them.

    Raises:
        ValueError: one of them cannot be; nothing was asked for.
        PlacementGroupExistsError: a group of this name is there. Also a ValueError.
    """
    amounts = checked_bundles(bundles)
    if _soft_target_node_id is not None:
        raise ValueError(
            "_soft_target_node_id is not there; name the node by bundle_label_selector={'ray.io/node-id': id}"
        )
    if topology_strategy is not None:
        raise ValueError("topology_strategy is not there: nodes have no topology here. Use strategy")
    strategy = "PACK" if strategy is None else strategy
    if strategy not in STRATEGIES:
        raise ValueError(f"Invalid strategy type {strategy!r}. Supported: {', '.join(STRATEGIES)}")
    if lifetime not in (None, "detached"):
        raise ValueError(f"placement group `lifetime` argument must be either `None` or 'detached', not {lifetime!r}")
    if not isinstance(name, str):
        raise ValueError(f"the name of a placement group is a string, not {name!r}")
    where = _label_choices(bundle_label_selector, len(bundles))
    here = core()
    group = GroupId(task_id(here.me, next(here.counter)))
    actor = current_task.actor
    facts = (
        group,
        f"{here.namespace}\0{name}" if name else "",
        amounts,
        strategy,
        where,
        lifetime == "detached",
        here.job,
        None if actor is None else actor.actor,
    )
    handle = PlacementGroup(PlacementGroupID(group), [dict(bundle) for bundle in bundles])
    here.bundles[group] = handle.bundle_specs
    with here.lock:
        here._perform(here.owner.groups.create(CreateGroup(0, *facts) if not name else None, group))
    if here.serial:
        here.look()
    if name and not here.request(HEAD, lambda number: CreateGroup(number, *facts)):
        with here.lock:
            here.owner.groups.forget(group)
        raise PlacementGroupExistsError(
            f"a placement group named {name!r} is there in this namespace; get it by "
            f"get_placement_group(), or remove it"
        )
    return handle


def checked_bundles(bundles: Any) -> list[dict[str, int]]:
    """In thousandths, without what is zero.

    Raises:
        ValueError: they are no bundles; the sentence says why.
    """
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list, got {type(bundles)}.")
    if not bundles:
        raise ValueError("Placement group `bundles` cannot be an empty list.")
    checked = []
    for bundle in bundles:
        if not isinstance(bundle, Mapping):
            raise ValueError(f"Bundles must be a list of resource dictionaries, not of {bundle!r}: [{{'CPU': 1.0}}]")
        for name, amount in bundle.items():
            if not isinstance(name, str) or isinstance(amount, bool) or not isinstance(amount, numbers.Real):
                raise ValueError(f"Bundles must be resource dictionaries, names by numbers, not {name!r}: {amount!r}")
            if not math.isfinite(amount) or amount < 0:
                raise ValueError(f"{name} in a bundle must be finite and not below 0, not {amount!r}")
            if name == BUNDLE or "_group_" in name:
                raise ValueError(f"{name!r} cannot be in a bundle: names like it are those of bundles themselves")
        if not any(bundle.values()):
            raise ValueError(
                f"Bundles cannot be an empty dictionary or resources with only 0 values. Bundles: {bundles}"
            )
        if "object_store_memory" in bundle:
            warnings.warn(
                "object_store_memory in a bundle does not reserve anything: the store is shared by all on a node",
                DeprecationWarning,
                stacklevel=3,
            )
        checked.append({name: thousandths(amount) for name, amount in bundle.items() if amount})
    return checked


def _label_choices(selectors: Any, count: int) -> tuple[Any, ...]:
    if selectors is None or selectors == []:
        return ()
    if not isinstance(selectors, list) or not all(isinstance(one, Mapping) for one in selectors):
        raise ValueError(f"Placement group bundle_label_selector must be a list of dictionaries, not {selectors!r}.")
    if len(selectors) != count:
        raise ValueError(
            f"Invalid bundle label selector {selectors}: there are {len(selectors)} of them for {count} bundles"
        )
    return (LABELS, tuple(selector_choice("bundle_label_selector", one) for one in selectors))


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give back what it holds. A second time nothing happens.

    Tasks and actors that run there are killed; what waits for a place in it, or is sent there later, fails with
    `TaskPlacementGroupRemoved` or `ActorPlacementGroupRemoved`.
    """
    assert placement_group is not None
    here = core()
    group = group_id(placement_group)
    here.kick()  # what was sent there before fails like all the rest
    with here.lock:
        here._perform(here.owner.remove_group(group, now()))
    here.bundles.pop(group, None)
    if here.serial:
        here.look()


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of this name, of this namespace.

    Raises:
        ValueError: there is none.
    """
    if not placement_group_name:
        raise ValueError("Please supply a non-empty value to get_placement_group")
    here = core()
    key = f"{here.namespace}\0{placement_group_name}"
    found = here.request(HEAD, lambda number: DescribeGroups(number, [], key))
    if not found:
        raise ValueError(f"Failed to look up placement group with name: {placement_group_name}")
    return PlacementGroup(PlacementGroupID(found[0]["group"]), _as_floats(found[0]["bundles"]))


def get_current_placement_group() -> PlacementGroup | None:
    """The group that this task or actor works in; None in none, and in a driver."""
    group = core().group[0]
    return PlacementGroup(PlacementGroupID(group)) if group else None


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What is known of a group, or of all that there are and lately were, by their ids in hexadecimal."""
    here = core()
    wanted = [] if placement_group is None else [group_id(placement_group)]
    found = here.request(HEAD, lambda number: DescribeGroups(number, wanted))
    rows = {facts["group"].hex(): _row(facts) for facts in found}
    if placement_group is None:
        return rows
    return rows.get(placement_group.id.hex(), {})


def _row(facts: Mapping[str, Any]) -> dict[str, Any]:
    state = facts["state"]
    return {
        "placement_group_id": facts["group"].hex(),
        "name": facts["name"],
        "bundles": dict(enumerate(_as_floats(facts["bundles"]))),
        "bundles_to_node_id": {
            index: facts["places"][index].hex() if index in facts["places"] else ""
            for index in range(len(facts["bundles"]))
        },
        "strategy": facts["strategy"],
        "state": state,
        "stats": {
            "scheduling_attempt": facts["attempts"],
            "scheduling_state": {"CREATED": "FINISHED", "REMOVED": "REMOVED"}.get(state, "QUEUED"),
            "why": "" if state == "CREATED" else facts["why"],
        },
    }


def _as_floats(bundles: Sequence[Mapping[str, int]]) -> list[dict[str, float]]:
    return [{name: amount / UNIT for name, amount in bundle.items()} for bundle in bundles]


def group_id(group: PlacementGroup) -> GroupId:
    return GroupId(group.id.binary())


def bundles_of(here: Core, group: GroupId) -> list[dict[str, float]] | None:
    """Of whatever group; None if nothing is known of it (any more)."""
    known = here.bundles.get(group)
    if known is None:
        found = here.request(HEAD, lambda number: DescribeGroups(number, [group]))
        if not found:
            return None
        known = here.bundles[group] = _as_floats(found[0]["bundles"])
    return known


__all__ = [
    "PlacementGroup",
    "PlacementGroupID",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]
