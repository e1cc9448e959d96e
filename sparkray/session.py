"""The session of this process: `init` starts an engine here, `shutdown` ends it. (Spark's way is `RayContext`.)"""

from __future__ import annotations

import atexit
import logging
import os
import platform
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sparkray import init_arguments, jobs
from sparkray.environments import environment, job_environment
from sparkray.job_config import JobConfig, LoggingConfig
from sparkray.options import thousandths
from sparkray.runtime_env import RuntimeEnv, checked
from sparkray_core.errors import RaySystemError
from sparkray_core.ids import NodeId, new_node_id, new_process_id
from sparkray_core.run import forked, gpus, logs, object_ref
from sparkray_core.run.config import NodeConfig, default_base_folder
from sparkray_core.run.core import Core
from sparkray_core.run.settings_sources import resolve
from sparkray_core.run.start import StartedNode, new_session_name, new_token, start_node, sweep
from sparkray_core.settings import Settings
from sparkray_core.system import LINUX
from sparkray_core.wire.frames import ConnectionLost

if TYPE_CHECKING:
    from sparkray import joining
    from sparkray.metrics_export import Endpoint

ANONYMOUS = "anonymous-"  # what the namespaces of drivers that name none begin with

log = logging.getLogger(__name__)

_lock = threading.Lock()
_session: Session | None = None


class Session(Mapping[str, Any]):
    """What `init` returns: a mapping of addresses, and a context manager that shuts down."""

    def __init__(self, core: Core, address: str, host: str, node: StartedNode | None) -> None:
        """
        Args:
            address: host:port of the head.
            host: of the node that this process is on.
            node: the one that this process started, if it did.
        """
        self.core = core
        self.node = node
        self.address_info = {
            "address": address,
            "gcs_address": address,
            "node_id": core.node.hex(),
            "node_ip_address": host,
            "session_dir": core.folder,
            "raylet_socket_name": os.path.join(core.folder, "raylet.sock"),
            "object_store_address": os.path.join(core.folder, "raylet.sock"),
            "webui_url": "",
            "metrics_export_port": None,
        }
        self.metrics: Endpoint | None = None  # where Prometheus reads, if that is wanted

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    @property
    def dashboard_url(self) -> str:
        """Empty: there is no dashboard."""
        return str(self.address_info["webui_url"])

    @property
    def python_version(self) -> str:
        return platform.python_version()

    @property
    def ray_version(self) -> str:
        """sparkray's own."""
        from sparkray import __version__

        return __version__

    @property
    def ray_commit(self) -> str:
        """Empty: it is not known."""
        return ""

    def _repr_html_(self) -> str:
        import html  # only notebooks ask

        shown = {name: value for name, value in self.address_info.items() if value not in (None, "")}
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>" for name, value in shown.items()
        )
        state = "is up" if _session is self else "has ended"
        return f"<div><b>sparkray session</b> {state}<table>{rows}</table></div>"

    def disconnect(self) -> None:
        """The same as `sparkray.shutdown()`, if this is still the session."""
        if _session is self:
            shutdown()

    def end(self) -> bool:
        """Close our half and stop the node, if it is ours. Returns whether all of it is gone."""
        if self.metrics is not None:
            self.metrics.close()
        self.core.close()
        return self.node is None or self.node.stop()


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    object_store_memory: int | str | None = None,
    namespace: str | None = None,
    log_to_driver: bool | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    job_config: JobConfig | None = None,
    configure_logging: bool = True,
    logging_level: int | str | None = None,
    logging_format: str | None = None,
    logging_config: LoggingConfig | None = None,
    settings: Mapping[str, Any] | None = None,
    _system_config: Mapping[str, Any] | None = None,
    **more: Any,
) -> Session:
    """Start the engine on this machine (a head, a raylet with its store, and a worker per CPU), or join a session.

    Args:
        address: "host:port" joins the session whose head is there. "local" starts one. "auto" joins the latest one of
            this user on this host, which must be there. None takes the one in SPARKRAY_ADDRESS (or RAY_ADDRESS), else
            the latest that `sparkray start` began here, else starts one.
        num_cpus: CPUs to hand out; as many as this process may use, if not given.
        num_gpus: GPUs to hand out. Default: those of NVIDIA that CUDA_VISIBLE_DEVICES names or, if it is not set, that
            this machine has. Each task or actor that asks for some is given its own, by number.
        resources: further resources by name, to be asked for with `resources=`.
        labels: names and values that describe this node.
        object_store_memory: bytes of the shared-memory store, or a size like "4g"; 30 % of the machine's memory if not
            given. Memory is taken as it is written to.
        namespace: of the names of actors, where none is given with the name.
        log_to_driver: show what workers print, with the name and pid of who printed it.
        runtime_env: of all tasks and actors, which may lay their own over it: see `sparkray.runtime_env`.
        local_mode: run all tasks and actors in this process, one after the other and at once: for debuggers. Their
            semantics stay (values are pickled snapshots, errors have both classes), their resources are only checked.
        ignore_reinit_error: return the session that is up, instead of raising.
        job_config: further defaults of the job; what is given here wins over it.
        configure_logging: False: `logging_level` and `logging_format` have no effect.
        logging_level: of sparkray's own loggers in the driver. Without it, and without a format, they are left alone.
        logging_format: as `logging.Formatter` takes it.
        logging_config: how the root logger writes, in the driver and, if `init` starts the session, in its tasks and
            actors.
        settings: by name; see `docs/settings.md`, or `python -m sparkray.settings`. Each may be given as a keyword of
            its own too: `init(inline_bytes=1 << 20)`. What is not given comes from the environment, then from a file.
        _system_config: Ray's; of it, the names are taken that are a setting's.
        more: settings; and Ray's further keywords. Of them `_temp_dir` (`base_folder`), `_node_ip_address` (of this
            node, where it then listens, too), `_memory` (a resource of this node, in bytes) and `_metrics_export_port`
            (the setting metrics_port) have an effect; for
            the others, one line says that they have none.

    Raises:
        RuntimeError: a session is up already, or a keyword is not known.
        TypeError, ValueError: an argument cannot be what was given; nothing was started.
        BadSetting: a setting that does not exist, or a value that it cannot have; in whatever source.
        ValueError: what only a new session can be given comes with the address of one that is up.
        ConnectionError: there is no session to join; or, as `AuthenticationError`, its key is not known or was refused.
        NodeStartError: the engine did not come up; the text says why.
        OSError: the port for metrics is taken.
    """
    global _session
    store_bytes = init_arguments.check(
        address=address,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=resources,
        labels=labels,
        object_store_memory=object_store_memory,
        namespace=namespace,
        log_to_driver=log_to_driver,
        ignore_reinit_error=ignore_reinit_error,
        job_config=job_config,
        configure_logging=configure_logging,
        logging_level=logging_level,
        logging_format=logging_format,
        logging_config=logging_config,
    )
    known = [name for name in init.__annotations__ if name not in ("more", "return")]
    wishes, hidden = init_arguments.sort_out(more, settings, _system_config, known)
    job = job_config or JobConfig()
    env = checked(runtime_env if runtime_env is not None else job.runtime_env)
    namespace = namespace or job.ray_namespace
    shown = log_to_driver is not False
    lifetime = job.default_actor_lifetime
    job_facts: dict[str, Any] = {} if lifetime == "non_detached" else {"actor_lifetime": lifetime}
    if logging_config is not None:
        job_facts["logging"] = logging_config.facts()
    with _lock:
        if _session is not None:
            if ignore_reinit_error:
                return _session
            raise RuntimeError(
                "Maybe you called init() twice by accident? A session is up. Call shutdown() first, or pass "
                "ignore_reinit_error=True."
            )
        if object_ref.current is not None:
            raise RuntimeError(
                f"this process is a {object_ref.current.role} of a running session; it cannot start another"
            )
        from sparkray import joining

        chosen = resolve(wishes)
        if local_mode:
            totals = {"CPU": usable_cpus() if num_cpus is None else num_cpus, "GPU": num_gpus or 0, **(resources or {})}
            _session = _local_session(totals, store_bytes, namespace or anonymous_namespace(), chosen)
            _set_up(_session.core, job_facts, configure_logging, logging_level, logging_format)
            return _session
        target = joining.find(address, base_folder=chosen.base_folder)
        if target is not None:
            _refuse_beside_address(
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                resources=resources,
                labels=labels,
                object_store_memory=object_store_memory,
            )
            for_workers = (*(job.code_search_path or ()), *_worker_path()), job_facts
            _session = _join(target, namespace or anonymous_namespace(), shown, chosen, env, for_workers)
            _set_up(_session.core, job_facts, configure_logging, logging_level, logging_format)
            _open_metrics(_session, chosen.metrics_host, hidden.get("_metrics_export_port", chosen.metrics_port))
            return _session
        cpus = usable_cpus() if num_cpus is None else num_cpus
        store_bytes = store_bytes or default_store_bytes(chosen)
        memory = hidden.get("_memory") or default_memory(store_bytes)
        amounts = {"CPU": cpus, "GPU": usable_gpus(num_gpus), "memory": memory, **(resources or {})}
        host = hidden.get("_node_ip_address", "127.0.0.1")
        config = NodeConfig(
            session=new_session_name(),
            node=new_node_id(),
            token=new_token(),
            is_head=True,
            head_address=None,
            resources={name: thousandths(amount) for name, amount in amounts.items() if amount},
            labels=dict(labels or {}),
            store_bytes=store_bytes,
            base_folder=default_base_folder(chosen.base_folder),
            bind_host=host,
            host=host,
            job=job_facts,
            prestart=chosen.prestarted(int(cpus)),
            sys_path=(*(job.code_search_path or ()), *_worker_path()),
            cwd=os.getcwd(),
            namespace=namespace or anonymous_namespace(),
            settings=chosen,
            published_by="init",
        )
        sweep(config.base_folder, chosen.keep_logs)
        node = start_node(config)
        try:
            core = _connected(node.folder, config.node, config.token, config.namespace, shown, chosen, env)
            core.map_ahead()
        except BaseException:
            node.stop()
            raise
        _session = Session(core, joining.bare(node.head_address), config.host, node)
        _set_up(core, job_facts, configure_logging, logging_level, logging_format)
        _open_metrics(_session, chosen.metrics_host, hidden.get("_metrics_export_port", chosen.metrics_port))
        return _session


def _open_metrics(session: Session, host: str, port: int | None) -> None:
    """Give the metrics there. None: nowhere. Without its endpoint the session does not come up."""
    global _session
    if port is None:
        return
    from sparkray.metrics_export import Endpoint

    try:
        session.metrics = Endpoint(session.core, host, port)
    except OSError:
        _session = None
        session.end()
        raise
    session.address_info["metrics_export_port"] = session.metrics.port


def _local_session(totals: Mapping[str, float], store_bytes: int | None, namespace: str, chosen: Settings) -> Session:
    from sparkray_core.run.local_mode import LocalCore  # asyncio takes 50 ms to import

    store_bytes = store_bytes or default_store_bytes(chosen)
    amounts = {"memory": default_memory(store_bytes), **totals}
    resources = {name: thousandths(amount) for name, amount in amounts.items() if amount}
    core = LocalCore(new_node_id(), resources, store_bytes, chosen)
    core.namespace = namespace
    core.connect()
    return Session(core, "local_mode", "127.0.0.1", None)


def _set_up(core: Core, job: Mapping[str, Any], configure: bool, level: int | str | None, text: str | None) -> None:
    """What of the job's wishes concerns the driver."""
    core.actor_lifetime = job.get("actor_lifetime")
    init_arguments.set_up_logging(configure, level, text)
    if "logging" in job:
        logs.configure(job["logging"])


def _connected(
    folder: str,
    node: NodeId,
    token: bytes,
    namespace: str,
    log_to_driver: bool,
    chosen: Settings,
    env: RuntimeEnv | None,
    for_workers: tuple[tuple[str, ...], Mapping[str, Any]] | None = None,
) -> Core:
    """
    Args:
        for_workers: where they look for modules, and the job's facts, if the session was not started by this driver.
    """
    core = Core(new_process_id(node), folder, token, "driver", chosen)
    core.namespace = namespace
    core.printer.shown = log_to_driver
    core.connect()
    try:
        jobs.register(core)
        if for_workers is not None:
            core.env = job_environment(core, for_workers[0], os.getcwd(), for_workers[1])
        core.env = environment(core, env)
    except BaseException:  # a folder that is too large
        core.close()
        raise
    return core


def _refuse_beside_address(**given: Any) -> None:
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise ValueError(
            f"When connecting to an existing cluster, {' and '.join(named)} must not be provided: they are its nodes' "
            f"own. (init(address='local') starts a session whatever is up.)"
        )


def _join(
    target: joining.Target,
    namespace: str,
    log_to_driver: bool,
    chosen: Settings,
    env: RuntimeEnv | None,
    for_workers: tuple[tuple[str, ...], Mapping[str, Any]],
) -> Session:
    """Connect to a session that is up, by way of a node of it on this host."""
    from sparkray import joining

    node, here = None, target.here
    if here is None:
        node = joining.start_visitor(target, for_workers[0], chosen)
        folder, node_id, host = node.folder, node.config.node, node.config.host
    else:
        folder, node_id, host = here.folder, here.node, here.host
    try:
        core = _connected(folder, node_id, target.key.token, namespace, log_to_driver, chosen, env, for_workers)
    except ConnectionLost as lost:
        if node is not None:
            node.stop()
        raise ConnectionError(f"the session at {target.address} cannot be joined: {lost.why}") from None
    except BaseException:
        if node is not None:
            node.stop()
        raise
    return Session(core, target.address, host, node)


def anonymous_namespace() -> str:
    """For a driver that names none: a random one, so that its names of actors are its own."""
    return ANONYMOUS + os.urandom(16).hex()


def adopt(session: Any) -> None:
    """Make a session that `RayContext` started the one of this process."""
    global _session
    with _lock:
        if _session is not None:
            raise RuntimeError(
                "a session is up in this process already: call sparkray.shutdown() or RayContext.stop() first"
            )
        _session = session


def release(session: Any) -> None:
    """The session ended by itself or by its `RayContext`."""
    global _session
    with _lock:
        if _session is session:
            _session = None


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """End the session; nothing of it is left when this returns. Without a session nothing happens.

    Args:
        wait_for_processes, _exiting_interpreter: accepted for Ray's sake; the processes are waited for in any case.
    """
    global _session
    with _lock:
        session, _session = _session, None
    logs.restore()
    if session is not None and not session.end():
        log.warning("not all of the session's processes were gone in time; the next start sweeps what is left")


def current() -> Any:
    """The session that this process started, by `init` or by `RayContext`; None in a worker, or when there is none."""
    return _session


def is_initialized() -> bool:
    return object_ref.current is not None


def core() -> Core:
    """This process's core; a driver without a session gets one, as with Ray."""
    if object_ref.current is None:
        forked.refuse()
        if not resolve().enable_auto_connect:
            raise RaySystemError(
                "there is no sparkray session: call init() first (SPARKRAY_ENABLE_AUTO_CONNECT=0 forbids to start one "
                "by itself)"
            )
        init()
    assert object_ref.current is not None
    return object_ref.current


def core_of(ref: Any) -> Core:
    """This process's core, for a reference or generator: without a session it can only be of one that has ended.

    Raises:
        UnknownOwnerError: so it is.
    """
    if object_ref.current is None:
        raise object_ref.of_past_session(repr(ref))
    return object_ref.current


def _forget_after_fork() -> None:
    """In a forked child the session is the parent's: neither to be used nor to be ended here."""
    global _session, _lock
    _session, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if LINUX and hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_gpus(wanted: float | None) -> float:
    """
    Raises:
        ValueError: more are wanted than CUDA_VISIBLE_DEVICES names.
    """
    return gpus.count() if wanted is None else gpus.checked(wanted)


def default_store_bytes(chosen: Settings) -> int:
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * chosen.object_store_share)


def default_memory(store_bytes: int) -> int:
    """The resource "memory" of this machine, bytes: what the store leaves."""
    return max(0, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - store_bytes)


def _worker_path() -> list[str]:
    """Where the driver finds its modules: workers look there too, the script's folder first."""
    return [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path]


atexit.register(shutdown)
