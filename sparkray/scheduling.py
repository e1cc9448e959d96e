"""What `scheduling_strategy=` takes, besides "DEFAULT" and "SPREAD"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

from sparkray.placement_groups import PlacementGroup
from sparkray_core.ids import NodeId
from sparkray_core.messages import Where
from sparkray_core.model.where import LABELS, NODE, Choice, Condition

_NODE_ID_BYTES = 8


class PlacementGroupSchedulingStrategy:
    """In a bundle of a placement group.

    Args:
        placement_group: the group.
        placement_group_bundle_index: the number of the bundle; -1: any that has room.
        placement_group_capture_child_tasks: whether tasks and actors that it makes, and for which nothing else is said,
            run in the group, too (in any bundle). None: if that is so for whoever makes it; a driver says no.
    """

    def __init__(
        self,
        placement_group: PlacementGroup,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        if not isinstance(placement_group, PlacementGroup):
            raise ValueError(
                f"placement_group needs to be an instance of PlacementGroup, not {type(placement_group).__name__}"
            )
        if isinstance(placement_group_bundle_index, bool) or not isinstance(placement_group_bundle_index, int):
            raise TypeError(f"placement_group_bundle_index is a whole number, not {placement_group_bundle_index!r}")
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def __repr__(self) -> str:
        return f"PlacementGroupSchedulingStrategy({self.placement_group}, {self.placement_group_bundle_index})"


class NodeAffinitySchedulingStrategy:
    """On one node.

    Args:
        node_id: in hexadecimal, as `nodes()` and `get_runtime_context().get_node_id()` give it.
        soft: it may run elsewhere, if the node is gone or could never hold it. Otherwise it fails then, with
            `TaskUnschedulableError` or `ActorUnschedulableError`.

    Raises:
        ValueError: this is no id of a node.
    """

    def __init__(
        self, node_id: str, soft: bool, _spill_on_unavailable: bool = False, _fail_on_unavailable: bool = False
    ) -> None:
        text = node_id if isinstance(node_id, str) else getattr(node_id, "hex", lambda: repr(node_id))()
        try:
            node = bytes.fromhex(text)
        except ValueError:
            node = b""
        if len(node) != _NODE_ID_BYTES:
            raise ValueError(f"Invalid node_id {node_id!r}: a node's id is {2 * _NODE_ID_BYTES} hexadecimal digits")
        if soft and _fail_on_unavailable:
            raise ValueError("_fail_on_unavailable cannot be combined with soft=True")
        self.node_id = text
        self.soft = bool(soft)
        self._spill_on_unavailable = bool(_spill_on_unavailable)
        self._fail_on_unavailable = bool(_fail_on_unavailable)

    @property
    def where(self) -> Where:
        node = NodeId(bytes.fromhex(self.node_id))
        return (NODE, node, self.soft, self._spill_on_unavailable, self._fail_on_unavailable)

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"


class _OfValues:
    how = ""

    def __init__(self, *values: str) -> None:
        if not values or not all(isinstance(value, str) for value in values):
            raise ValueError(f"{type(self).__name__} needs values, and they are strings, not {values!r}")
        self.values = tuple(values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.values}"


class In(_OfValues):
    """The label has one of these values."""

    how = "in"


class NotIn(_OfValues):
    """The label has none of these values, or is not there."""

    how = "not in"


class _OfPresence:
    how = ""
    values: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Exists(_OfPresence):
    """The label is there."""

    how = "exists"


class DoesNotExist(_OfPresence):
    """The label is not there."""

    how = "does not exist"


LabelMatch = Union[In, NotIn, Exists, DoesNotExist]  # noqa: UP007 - the classes are its documentation


class NodeLabelSchedulingStrategy:
    """On a node of these labels.

    Args:
        hard: by label; all must hold.
        soft: of the nodes for which `hard` holds, one for which these hold, too, if there is one with room.
    """

    def __init__(
        self, hard: Mapping[str, LabelMatch] | None = None, *, soft: Mapping[str, LabelMatch] | None = None
    ) -> None:
        self.hard = _checked("hard", hard)
        self.soft = _checked("soft", soft)
        if not (self.hard or self.soft):
            raise ValueError("The `hard` and `soft` parameter of NodeLabelSchedulingStrategy cannot both be empty.")

    @property
    def where(self) -> Where:
        hard, soft = _conditions(self.hard), _conditions(self.soft)
        return (LABELS, (hard + soft, hard) if soft else (hard,))

    def __repr__(self) -> str:
        return f"NodeLabelSchedulingStrategy(hard={self.hard}, soft={self.soft})"


def _checked(name: str, given: Mapping[str, LabelMatch] | None) -> dict[str, LabelMatch]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"The {name} parameter must be a map of labels to In(), NotIn(), Exists() or DoesNotExist()")
    for label, match in given.items():
        if not isinstance(label, str) or not isinstance(match, (In, NotIn, Exists, DoesNotExist)):
            raise ValueError(f"{name}: {label!r}: {match!r} is none of In(), NotIn(), Exists() and DoesNotExist()")
    return dict(given)


def _conditions(matches: Mapping[str, LabelMatch]) -> Choice:
    conditions: list[Condition] = [(label, match.how, match.values) for label, match in sorted(matches.items())]
    return tuple(conditions)


SchedulingStrategyT = Any  # "DEFAULT", "SPREAD", None, or one of the classes above
