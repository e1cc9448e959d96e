"""What `RayContext.init` does once it is known what to start: the nodes, and the talk with Spark's tasks meanwhile."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from sparkray.cluster_session import ClusterSession, ExecutorNode
from sparkray.containers import driver_container_of
from sparkray.elastic import ElasticNodes
from sparkray.executor_main import StartOrder, container_logs, measure_host, module_path, pod_output
from sparkray.launch import launch
from sparkray.rendezvous import Rendezvous, numeric_address
from sparkray.sizing import NodePlan, UnfitSpark, store_bytes_on
from sparkray.spark_facts import is_refused
from sparkray_core.ids import new_node_id
from sparkray_core.run.config import TOLD_LATER, NodeConfig, ProcessTie
from sparkray_core.run.processes import Identity, identify
from sparkray_core.run.start import new_token

if TYPE_CHECKING:
    from sparkray.cluster import RayContext


def jvm_of(ctx: RayContext) -> Identity:
    """The driver's. Or this process, which it does not outlive, where py4j may not be asked.

    Raises:
        UnfitSpark: it is on another host.
    """
    from py4j.protocol import Py4JError

    java: Any = ctx.sc._jvm
    try:
        pid = int(java.java.lang.ProcessHandle.current().pid())
    except Py4JError as error:
        if not is_refused(error):
            raise
        pid = os.getpid()
    jvm = identify(pid)
    if jvm is None:
        raise UnfitSpark("the SparkContext's JVM is not on this host")
    return jvm


def start_local(ctx: RayContext, chosen: NodePlan, started: ClusterSession) -> None:
    """The JVM is the driver's and dies with this process; so a node tied to it dies with either."""
    jvm = jvm_of(ctx)
    assert chosen.cores is not None
    config = NodeConfig(
        session=started.name,
        base_folder=started.base_folder,
        node=new_node_id(),
        token=new_token(),
        is_head=True,
        head_address=None,
        resources={"CPU": chosen.cores * 1000, **ctx.resources},
        store_bytes=store_bytes_on(measure_host(), 1, chosen.store_bytes, ctx.settings.object_store_share),
        labels=ctx.labels,
        tie=ProcessTie(jvm.pid, jvm.start),
        prestart=ctx.settings.prestarted(chosen.cores),
        sys_path=module_path(),
        cwd=os.getcwd(),
        namespace=ctx.namespace,
        settings=ctx.settings,
    )
    started.begin_own(config)
    node = started.connect()
    settings = ctx.sc.getConf()
    started.executors = [
        ExecutorNode(
            node=config.node,
            host=config.host,
            executor=f"{settings.get('spark.driver.host')}:{settings.get('spark.driver.port')}",
            jvm=jvm,
            keeper=identify(node.pid) or Identity(node.pid, 0.0),
            folder=node.folder,
            address=node.address,
            cores=chosen.cores,
            store_bytes=config.store_bytes,
        )
    ]


def start_cluster(
    ctx: RayContext, chosen: NodePlan, started: ClusterSession, deadline: float, driver_cores: int
) -> None:
    from sparkray_core.wire.zmq_transport import new_session_keys  # zmq is not needed in local mode

    here = chosen.same_machine
    host, listen_on = ctx.spark.reached_at(here)
    public, secret = new_session_keys()
    elastic = not chosen.barrier
    own_id = new_node_id()
    container = driver_container_of(ctx.spark.master, ctx.spark.settings())
    store = chosen.store_bytes if container is None else container.store_for(ctx.object_store_memory)
    driver = NodeConfig(
        session=started.name,
        base_folder=started.base_folder,
        node=own_id,
        token=new_token(),
        is_head=elastic,
        head_address=None if elastic else TOLD_LATER,
        lives_for=own_id if elastic else None,
        resources={"CPU": driver_cores * 1000} if driver_cores else {},
        store_bytes=store_bytes_on(
            measure_host(),
            chosen.nodes + 1 if here else 1,
            store,
            ctx.settings.object_store_share,
        ),
        curve_public=public,
        curve_secret=secret,
        container_logs=container_logs(),
        shown_at=pod_output(os.getpid()),
        container_bytes=0 if container is None else container.total,
        container_pid=0 if container is None else jvm_of(ctx).pid,
        bind_host=numeric_address(listen_on),
        host=host,
        prestart=ctx.settings.prestarted(driver_cores) if driver_cores else 0,
        sys_path=module_path(),
        cwd=os.getcwd(),
        namespace=ctx.namespace,
        settings=ctx.settings,
    )
    with contextlib.ExitStack() as until_told:
        rendezvous = until_told.enter_context(Rendezvous(driver.bind_host, driver.token))
        order = StartOrder(
            session=driver.session,
            token=driver.token,
            curve_public=public,
            curve_secret=secret,
            rendezvous=(host, rendezvous.port),
            barrier=not elastic,
            driver_node=driver.node,
            nodes=chosen.nodes,
            cores=chosen.cores,
            resources=ctx.resources,
            labels=ctx.labels,
            store_bytes=chosen.store_bytes,
            environment=ctx.env,
            same_machine=here,
            sys_path=driver.sys_path if here else (),
            python_prefix=sys.prefix,
            cwd=driver.cwd if here else None,
            namespace=ctx.namespace,
            base_folder=driver.base_folder if here else None,
            limit_s=ctx.start_timeout,
            container_bytes=chosen.container.total if chosen.container and ctx.spark.master == "yarn" else 0,
            settings=ctx.settings.changed(),
        )

        def connect(head_address: str) -> None:
            ctx.tell(f"the head is at {head_address}")
            started.connect(head_address)

        started.begin_own(driver)
        if elastic:
            until_told.pop_all()  # it is the session's, to its end
            _gather(ctx, chosen, order, rendezvous, started, deadline)
            return
        ready = launch(ctx.spark, chosen, order, rendezvous, deadline, connect)
    started.executors = [ExecutorNode.from_facts(facts) for facts in ready]
    for facts in ready:
        ctx.tell(f"node {facts['node']} on {facts['host']}, executor {facts['executor']}: {facts['seconds']}")


def _gather(
    ctx: RayContext,
    chosen: NodePlan,
    order: StartOrder,
    rendezvous: Rendezvous,
    started: ClusterSession,
    deadline: float,
) -> None:
    def joined(facts: dict[str, Any]) -> None:
        started.executors.append(ExecutorNode.from_facts(facts))
        ctx.tell(f"node {facts['node']} on {facts['host']}, executor {facts['executor']}: {facts['seconds']}")

    wanted = ctx.num_ray_nodes
    try:
        head_address = started.connect().head_address
        ctx.tell(f"the head is at {head_address}, the driver's")
    except BaseException:
        rendezvous.close()
        raise
    started.elastic = ElasticNodes(ctx.spark, order, rendezvous, head_address, wanted, started.alive, joined)
    quorum = min(ctx.min_ray_nodes or chosen.nodes, chosen.nodes)
    started.elastic.gather(quorum, chosen.nodes * (chosen.slots_each or 1), deadline)
    started.elastic.go_on()
