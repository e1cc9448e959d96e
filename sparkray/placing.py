"""Where a task or actor may run, by its options and by who makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparkray.label_selectors import selector_choice
from sparkray.options import Options
from sparkray.placement_groups import PlacementGroup, bundles_of, group_id
from sparkray.scheduling import PlacementGroupSchedulingStrategy
from sparkray_core.ids import GroupId
from sparkray_core.messages import Resources, Where
from sparkray_core.model.resources import show
from sparkray_core.model.where import ANY_BUNDLE, GROUP, LABELS, SPREAD
from sparkray_core.run.core import Core


def where(here: Core, options: Options, name: str, wanted: Resources) -> Where:
    """As the engine has it.

    Args:
        name: of the function or class, for errors.
        wanted: what must be free for it.

    Raises:
        ValueError: the options contradict each other, or no bundle of the group could ever hold it.
    """
    strategy = options.scheduling_strategy
    choices = _choices(options)
    if options.placement_group != "default" or options.placement_group_bundle_index != ANY_BUNDLE:
        if strategy is not None:
            raise ValueError(
                "Placement groups should be specified via the scheduling_strategy option: placement_group and "
                "placement_group_bundle_index are deprecated, and cannot be combined with it"
            )
        strategy = _deprecated(options)
    elif strategy is None and not choices and here.group[1]:
        _check_fits(here, here.group[0], ANY_BUNDLE, name, wanted)
        return (GROUP, here.group[0], ANY_BUNDLE, True)
    if strategy is None or strategy == "DEFAULT":
        return (LABELS, choices) if choices else ()
    if strategy == "SPREAD":
        return (SPREAD, choices)
    if choices:
        raise ValueError(
            f"label_selector and fallback_strategy cannot be combined with {strategy!r}, which itself says "
            f"which nodes are meant"
        )
    if not isinstance(strategy, PlacementGroupSchedulingStrategy):
        return strategy.where  # type: ignore[no-any-return]
    return _in_group(here, strategy, name, wanted)


def _choices(options: Options) -> tuple[Any, ...]:
    """The label selectors, the best first."""
    selectors: list[Mapping[str, str]] = [] if options.label_selector is None else [options.label_selector]
    if options.fallback_strategy:
        selectors = [options.label_selector or {}, *(one["label_selector"] for one in options.fallback_strategy)]
    choices = tuple(selector_choice("label_selector", one) for one in selectors)
    return choices if any(choices) else ()


def _deprecated(options: Options) -> Any:
    """The strategy that the three deprecated options mean. "DEFAULT": none, and nothing is inherited."""
    group, index = options.placement_group, options.placement_group_bundle_index
    if isinstance(group, PlacementGroup) and not group.is_empty:
        return PlacementGroupSchedulingStrategy(group, index, options.placement_group_capture_child_tasks)
    if index != ANY_BUNDLE:
        raise ValueError("If placement group is not set, the value of bundle index must be -1.")
    return "DEFAULT"


def _in_group(here: Core, strategy: PlacementGroupSchedulingStrategy, name: str, wanted: Resources) -> Where:
    group, index = strategy.placement_group, strategy.placement_group_bundle_index
    if group.is_empty:
        if index != ANY_BUNDLE:
            raise ValueError("If placement group is not set, the value of bundle index must be -1.")
        return ()
    if group.bundle_cache is not None:
        here.bundles.setdefault(group_id(group), group.bundle_cache)
    _check_fits(here, group_id(group), index, name, wanted)
    captures = strategy.placement_group_capture_child_tasks
    return (GROUP, group_id(group), index, here.group[1] if captures is None else bool(captures))


def _check_fits(here: Core, group: GroupId, index: int, name: str, wanted: Resources) -> None:
    bundles = bundles_of(here, group)
    if bundles is None:
        if index < ANY_BUNDLE:
            raise ValueError(f"placement group bundle index {index} is invalid.")
        return  # removed, or on its way: whoever has to place it will know
    if not ANY_BUNDLE <= index < len(bundles):
        raise ValueError(
            f"placement group bundle index {index} is invalid. Valid placement group indexes: 0-{len(bundles) - 1}"
        )
    some = bundles if index == ANY_BUNDLE else [bundles[index]]
    if any(all(amount <= round(one.get(key, 0) * 1000) for key, amount in wanted.items()) for one in some):
        return
    which = "any bundle" if index == ANY_BUNDLE else f"bundle {index}"
    raise ValueError(
        f"Cannot schedule {name} with the placement group because the resource request {{{show(wanted)}}} cannot fit "
        f"into {which} for the placement group, {bundles}. (An actor for which no resources are given needs a "
        f"CPU to be placed.)"
    )
