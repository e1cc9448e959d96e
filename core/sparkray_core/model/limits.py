"""The numbers that nodes and the head go by, each with its unit and why it is what it is."""

from __future__ import annotations

from dataclasses import dataclass

from sparkray_core.model.legacy import HANDOVER_S
from sparkray_core.settings import Settings

# Bytes a second, at which arguments come from another node where nobody has measured it. Rather too few: to wait for
# the node that has them is the smaller mistake.
PULL_BYTES_S = 2e8


@dataclass(frozen=True, slots=True)
class NodeLimits:
    beat_s: float = 0.5  # seconds between two beats; a fifth of the silence that kills a node
    # That the head gets of all nodes together. Beyond a thousand nodes each beats less often, by their number: 50 us
    # each are a tenth of the head's core, and who has died is told by connections that break, as a rule.
    beats_per_s: float = 2000.0
    beat_gap_s: float = 0.1  # a change is told to the head early, but not more often than this
    warm_workers: int | None = Settings.prestart_workers  # forked at the start; None: one per whole CPU of the node
    keep_idle: int | None = Settings.idle_workers  # that are kept; None: as many as CPUs, or as were forked at first
    # One beyond these ends when it has idled for so long: where tasks wait for tasks, workers come and go by the
    # millisecond, and each would be forked anew for the next one. Ray's number.
    idle_s: float = 1.0
    # Tasks that may wait for others, each in a process of its own, before workers run what they wait for themselves;
    # None: one per CPU, and at least 8.
    waiting_workers: int | None = Settings.waiting_workers
    # Leases queued here although another node could hold them. Zero: the head, which knows who idles, is asked about
    # every lease that cannot be granted at once; a lease that waits here while another node idles is time lost.
    queue_limit: int = 0
    # What an actor saves up is given back after so long, or four times what a lease takes to come back.
    save_s: float = 5.0
    reoffer_s: float = 2.0  # so often the head is offered again what has no hope here, and half of the rest
    # Workers that start at the same time, per CPU: more would only take turns, until each is late to register.
    starts_per_cpu: int = 4
    start_failures: int = 5  # workers in a row that end before they register: then whatever waits for one is refused
    # A forked worker that has not registered by then is killed: it may have hung in a lock.
    register_s: float = Settings.worker_start_limit_s
    setup_s: float = 3600.0  # a worker sees to its own time limit; one that hangs in native code is killed after this
    memory_threshold: float = Settings.memory_threshold  # share of the memory beyond which workers are ended; 0: never
    leave_s: float = 10.0  # a worker told to end that is still there is killed
    room_s: float = Settings.store_wait_s  # how long an allocation waits for others to let go, before it is refused
    read_room_s: float = 30.0  # the same for a copy that somebody here is to read: tasks that read others may end soon
    spill_bytes: int = 64 << 20  # written to one file: large enough to be sequential, small enough to give room soon
    spill_objects: int = 4096  # in one file at most: each costs a system call or so
    spill_mark: float = Settings.object_spilling_threshold  # of the store; above it all is written out ahead of need
    spills_ahead: int = 2  # files being written: the disk is not left idle between two
    spill_retry_s: float = 1.0  # after an attempt to spill failed; the disk may have space again
    chunk_bytes: int = 4 << 20  # of one pulled chunk; larger ones hold up the beats behind them
    chunks_ahead: int = 4  # asked for and not there yet: hides a round trip of up to 16 MiB of line
    measured_bytes: int = 1 << 20  # a smaller object's journey shows the distance, not the bandwidth
    pull_ahead_bytes: int = 64 << 20  # the same over all objects that are pulled here: others wait for their turn
    # Pullers of one object that are served at a time by who had it first; the next are sent to these, as a tree.
    pull_fanout: int = 2
    unknown_s: float = 5.0  # a source that the head has not told of by then is none; it tells within 0.1 s
    transfer_s: float = 30.0  # a puller that has not asked for more by then is forgotten, and its pin with it
    punch_bytes: int = 8 << 20  # smaller holes are left to be filled again: their pages are warm
    punch_s: float = 5.0  # so are holes younger than this
    remembered: int = 10_000  # dead processes and ended transfers; older ones send nothing any more

    def prestarted(self, cpus: int) -> int:
        return cpus if self.warm_workers is None else self.warm_workers

    def waiting(self, cpus: int) -> int:
        return max(8, cpus) if self.waiting_workers is None else self.waiting_workers

    def at_once(self, cpus: int) -> int:
        """So many workers may be starting at once."""
        return self.starts_per_cpu * max(2, cpus)

    def beat_after(self, nodes: int) -> float:
        """Seconds between two beats of one of so many."""
        return max(self.beat_s, nodes / self.beats_per_s)

    def kept(self, cpus: int) -> int:
        """Beyond these a worker that stays idle ends: a fork costs milliseconds, an idle worker tens of megabytes."""
        return max(cpus, self.prestarted(cpus)) if self.keep_idle is None else self.keep_idle


@dataclass(frozen=True, slots=True)
class HeadLimits:
    # Silence that buries a node; one that beats less often may be silent for so much longer.
    node_timeout_s: float = Settings.node_timeout_s
    check_s: float = 0.25  # between two looks at who is silent: with `node_timeout_s` under 3 s from death to burial
    table_gap_s: float = 0.05  # joins closer than this share a NodeTable: n nodes at once are not n * n tables
    tables_per_s: float = 4000.0  # that leave the head at most, one to each node: a fifth of its core
    # How long a request that no node could ever grant waits for one that could.
    infeasible_grace_s: float = Settings.infeasible_grace_s
    complaint_s: float = 1.0  # complaints about broken links are gathered for so long: then it shows whose fault it is
    driver_s: float = Settings.start_limit_s  # for the node of a driver that the session lives for to join
    drain_s: float = 1.0  # after EndSession the head stays for so long at most, for the links to deliver it
    gang_retry_s: float = 0.1  # from a node's refusal to reserve bundles to the next attempt: a beat comes in between
    # So long, or four times what leases take to come back, nodes may save up for a group; then all is given back for as
    # long, and the next attempt may take twice as long.
    gather_s: float = 5.0
    loads_gap_s: float = 0.1  # in which what nodes report is gathered for schedulers beside the head
    scheduler_beat_s: float = 0.5  # between two signs of life of a scheduler; its silence counts as a node's does
    pull_bytes_s: float = PULL_BYTES_S
    unknown_task_s: float = 0.1  # taken for the mean of a node that has not measured any
    restart_gap_s: float = 0.5  # between two lives of one actor at least; one that dies at once may not spin
    remembered: int = 10_000  # dead actors, processes and nodes whose end can still be told
    record_bytes: int = 64 << 20  # of records of objects that are to outlive their owners; and how many objects
    record_objects: int = 100_000
    shards: int = 0  # processes beside the head that keep these records, each so many; 0: it does itself
    close_s: float = 10.0  # for so long at most a node's burial waits for what shards have of its owners
    handover_s: float = HANDOVER_S  # for so long the head holds what is inside of what it has passed on to an heir
    story_lines: int = 40  # kept of each actor

    def table_after(self, nodes: int) -> float:
        """Seconds between two tables for all of so many nodes."""
        return max(self.table_gap_s, nodes / self.tables_per_s)
