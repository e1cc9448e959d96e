"""What goes wrong in a random session (see `storm`), by kind. Each leaves out what would hide others' mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sparkray_core.testing.network import PERFECT, Conditions


@dataclass(frozen=True, slots=True)
class Weather:
    conditions: Conditions
    faults: int  # things that go wrong: a worker or node killed, a link cut
    bad_starts: float = 0.0
    bad_disks: float = 0.0
    spark: bool = False  # some objects are blocks that Spark has written
    crashes: int = 0  # of workers that have several tasks ahead
    head_deaths: int = 0  # of the head's process, which goes on: nobody may notice more than a pause
    # Some nodes are on one host: they read each other's objects in place, and owners speak straight to their workers.
    shared_hosts: bool = False
    deaths: int = 0  # of nodes without a driver, while all that is made there may be made again: all has to be right
    losses: int = 0  # deaths of nodes that own what was put, once there are copies: all has to be right
    orphans: int = 0  # deaths of workers that own what others hold: all has to be right
    schedulers: int = 0  # beside the head
    scheduler_deaths: int = 0  # of these, each of which another follows: all has to be right
    shards: int = 0  # of the GCS, beside the head
    shard_deaths: int = 0  # of these, each of which goes on: nobody may notice more than a pause
    cancels: bool = False  # drivers cancel some tasks, and wait for others with limits
    drains: int = 0  # of nodes without a driver: all has to be right, and nothing is made twice


CALM = Weather(PERFECT, 0)
ROUGH = Weather(Conditions(), 6, bad_starts=0.05, bad_disks=0.05, cancels=True)
CANCELS = Weather(PERFECT, 0, cancels=True)
LOSSY = Weather(Conditions(), 0)
CRASHES = Weather(PERFECT, 0, crashes=6)
DEADLY = Weather(Conditions(), 0, deaths=5)
SHARED = replace(DEADLY, shared_hosts=True)
HEADLESS = Weather(Conditions(), 0, head_deaths=8)
ORPHANS = Weather(Conditions(), 0, orphans=8)
HEADLESS_ORPHANS = replace(ORPHANS, head_deaths=4)
COPIES = Weather(Conditions(), 0, losses=4)
LEAVING = Weather(PERFECT, 0, drains=5)
# All places of a task are chosen by processes that die again and again; and while the head and nodes die, too.
SCHEDULERS = Weather(LOSSY.conditions, 0, schedulers=2, scheduler_deaths=8)
DEADLY_SCHEDULERS = replace(DEADLY, schedulers=3, scheduler_deaths=4, head_deaths=2)
# What workers and nodes record that die lies in processes that die again and again, as the head does.
SHARDS = replace(ORPHANS, shards=3, shard_deaths=8, head_deaths=2)
COPIES_IN_SHARDS = replace(COPIES, shards=2, shard_deaths=4)
ROUGH_SHARED = replace(ROUGH, shared_hosts=True)
ROUGH_SPARK = replace(ROUGH, spark=True)
DEADLY_SPARK = replace(DEADLY, spark=True)

# By the name that the command line has for it. A mixed run gives each seed the next kind.
KINDS: Mapping[str, Weather] = {
    "rough": ROUGH,
    "calm": CALM,
    "cancels": CANCELS,
    "lossy": LOSSY,
    "crashes": CRASHES,
    "deadly": DEADLY,
    "shared": SHARED,
    "headless": HEADLESS,
    "orphans": ORPHANS,
    "headless-orphans": HEADLESS_ORPHANS,
    "copies": COPIES,
    "leaving": LEAVING,
    "schedulers": SCHEDULERS,
    "deadly-schedulers": DEADLY_SCHEDULERS,
    "rough-spark": ROUGH_SPARK,
    "deadly-spark": DEADLY_SPARK,
    "rough-shared": ROUGH_SHARED,
    "shards": SHARDS,
    "copies-in-shards": COPIES_IN_SHARDS,
}
SAYS: Mapping[str, str] = {
    "rough": "whatever can go wrong does (if no kind is asked for, this is it)",
    "calm": "nothing goes wrong, so all has to be right",
    "cancels": "tasks are cancelled, and all others are right",
    "lossy": "but for a bad network nothing goes wrong",
    "crashes": "workers die that have several tasks ahead",
    "deadly": "nodes die, and what was on them can be made again",
    "shared": "deadly, and some nodes share a host",
    "headless": "the head dies again and again, and all is right",
    "orphans": "workers die that own what others hold",
    "headless-orphans": "workers die that own what others hold, and so does the head",
    "copies": "nodes die that own what was put with replicas=2",
    "leaving": "nodes are drained, and nobody is to notice",
    "schedulers": "schedulers beside the head die again and again",
    "deadly-schedulers": "schedulers, the head and nodes die",
    "rough-spark": "rough, and some objects are blocks of Spark's",
    "deadly-spark": "deadly, and some objects are blocks of Spark's",
    "rough-shared": "rough, and some nodes share a host",
    "shards": "the same, and shards of the GCS die, too",
    "copies-in-shards": "nodes die that own what was put with replicas=2, and so do shards of the GCS",
}
