"""sparkray: Ray's API, on one machine or inside a Spark cluster.

import sparkray as ray

ray.init()                                  # this machine; or, in a Spark job:
ctx = ray.RayContext(sc).init()             # the executors of a SparkContext
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparkray import actor, exceptions
from sparkray.actor_class import ActorClass, method
from sparkray.actor_handle import ActorHandle, get_actor
from sparkray.api import (
    available_resources,
    cancel,
    cluster_resources,
    get,
    kill,
    nodes,
    put,
    remote,
    wait,
    wait_async,
)
from sparkray.remote_function import RemoteFunction
from sparkray.runtime_context import get_runtime_context
from sparkray.session import init, is_initialized, shutdown
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.public_ids import ActorID, JobID, NodeID, TaskID, UniqueID, WorkerID
from sparkray_core.run.ref_generator import DynamicObjectRefGenerator, ObjectRefGenerator

if TYPE_CHECKING:
    from sparkray import cloudpickle, data, experimental, types, util
    from sparkray.chrome_trace import timeline
    from sparkray.cluster import RayContext
    from sparkray.explaining import explain
    from sparkray.job_config import LoggingConfig
    from sparkray.kubernetes import init_spark_on_k8s, init_spark_on_k8s_cluster
    from sparkray.placement_groups import PlacementGroupID
    from sparkray.runtime_context import get_gpu_ids
    from sparkray.spark_session import init_spark_on_local
    from sparkray.standalone import init_spark_standalone, stop_spark_standalone
    from sparkray.yarn import init_spark_on_mesos, init_spark_on_yarn, init_spark_on_yarn_cluster

ObjectID = ObjectRef  # by Ray's older name

__version__ = "0.1.0.dev0"

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ActorID",
    "DynamicObjectRefGenerator",
    "JobID",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "RayContext",
    "RemoteFunction",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "actor",
    "available_resources",
    "cancel",
    "cloudpickle",
    "cluster_resources",
    "data",
    "exceptions",
    "experimental",
    "explain",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "init_spark_on_k8s",
    "init_spark_on_k8s_cluster",
    "init_spark_on_local",
    "init_spark_on_mesos",
    "init_spark_on_yarn",
    "init_spark_on_yarn_cluster",
    "init_spark_standalone",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "stop_spark_standalone",
    "timeline",
    "types",
    "util",
    "wait",
    "wait_async",
]

# What needs PySpark, pandas or pyarrow is imported when it is asked for: `import sparkray` stays quick.
_LATER = {
    "LoggingConfig": "sparkray.job_config",
    "PlacementGroupID": "sparkray.placement_groups",
    "RayContext": "sparkray.cluster",
    "cloudpickle": "sparkray.cloudpickle",
    "data": "sparkray.data",
    "experimental": "sparkray.experimental",
    "explain": "sparkray.explaining",
    "get_gpu_ids": "sparkray.runtime_context",
    "init_spark_on_k8s": "sparkray.kubernetes",
    "init_spark_on_k8s_cluster": "sparkray.kubernetes",
    "init_spark_on_local": "sparkray.spark_session",
    "init_spark_on_mesos": "sparkray.yarn",
    "init_spark_on_yarn": "sparkray.yarn",
    "init_spark_on_yarn_cluster": "sparkray.yarn",
    "init_spark_standalone": "sparkray.standalone",
    "stop_spark_standalone": "sparkray.standalone",
    "timeline": "sparkray.chrome_trace",
    "types": "sparkray.types",
    "util": "sparkray.util",
}


def __getattr__(name: str) -> Any:
    module_name = _LATER.get(name)
    if module_name is None:
        raise AttributeError(f"module 'sparkray' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(module_name)
    return module if module_name.endswith(f".{name}") else getattr(module, name)
