"""`sparkray.util`: tools on top of tasks and actors, under Ray's names.

Further modules, imported by their own name: `sparkray.util.queue`, `sparkray.util.multiprocessing`,
`sparkray.util.joblib`, `sparkray.util.executor`, `sparkray.util.state`, `sparkray.util.metrics`.
"""

from sparkray.actor_handle import list_named_actors
from sparkray.util import accelerators
from sparkray.util.actor_pool import ActorPool
from sparkray.util.check_serialize import inspect_serializability
from sparkray.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
from sparkray.util.helpers import as_completed, get_node_ip_address, map_unordered
from sparkray.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from sparkray.util.serialization import deregister_serializer, register_serializer

__all__ = [
    "ActorPool",
    "accelerators",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]
