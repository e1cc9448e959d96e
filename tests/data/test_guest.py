"""A guest of a node: it writes objects that the driver owns, reads in place, and leaves nothing behind."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparkray import session
from sparkray.exceptions import NodeDiedError, ObjectLostError, ObjectStoreFullError
from sparkray_core.ids import ObjectId, count_of, object_id, task_id
from sparkray_core.messages import STORED
from sparkray_core.run.guest import Guest
from sparkray_core.wire import values
from tests.waiting import wait_until

TABLE = pa.table({"n": pa.array(np.arange(100_000)), "s": pa.array([str(number) for number in range(100_000)])})
_counts = itertools.count(1 << 63)


def guest() -> Guest:
    core = session.core()
    return Guest(core.folder, core.token, core.node)


def new_id() -> ObjectId:
    return object_id(task_id(session.core().me, next(_counts)))


def test_what_a_guest_writes_the_driver_reads(ray: Any) -> None:
    some = new_id()
    with guest() as visitor:
        size = visitor.write(some, values.serialize(TABLE))

    core = session.core()
    (ref,) = core.deliver(count_of(some), "guest", [(STORED, size, (core.node,))], None)
    assert ray.get(ref) == TABLE


def test_a_guest_writes_what_is_no_table_too(ray: Any) -> None:
    value = {"array": np.arange(100_000), "text": "x" * 200_000}
    some = new_id()
    with guest() as visitor:
        size = visitor.write(some, values.serialize(value))
        read = visitor.read(some, [])
    assert read["text"] == value["text"]
    core = session.core()
    (ref,) = core.deliver(count_of(some), "guest", [(STORED, size, (core.node,))], None)
    assert np.array_equal(ray.get(ref)["array"], np.arange(100_000))


def test_a_guest_reads_in_place_and_lets_go(ray: Any, wait_until_stored: Callable[[int], None]) -> None:
    gc.collect()
    wait_until_stored(0)
    ref = ray.put(TABLE)
    with guest() as visitor:
        table = visitor.read(ObjectId(ref.binary()), [session.core().node])
        assert table == TABLE
        assert not table.column("n").chunk(0).buffers()[1].is_mutable
        del ref
        wait_until_stored(1)  # pinned
        del table
        gc.collect()
        with pytest.raises(ObjectLostError):
            visitor.read(new_id(), [])  # any message takes the unpinning along
        wait_until_stored(0)


def test_a_guest_that_ends_holds_nothing(ray: Any, wait_until_stored: Callable[[int], None]) -> None:
    gc.collect()
    wait_until_stored(0)
    ref = ray.put(TABLE)
    visitor = guest()
    table = visitor.read(ObjectId(ref.binary()), [])
    written = new_id()
    visitor.write(written, values.serialize(TABLE))
    visitor.free([written])
    visitor.close()
    del ref
    wait_until_stored(0)
    del table


def test_a_full_store_is_told_with_sizes(ray: Any) -> None:
    with guest() as visitor:
        size = visitor.store_bytes + 1
        with pytest.raises(ObjectStoreFullError, match="can never fit into this node's store of 64 MiB"):
            visitor.write(new_id(), values.serialize(bytes(size)))
        assert visitor.write(new_id(), values.serialize(TABLE)) > TABLE.nbytes  # and it can go on


def test_what_its_owner_does_not_know_is_told_so(ray: Any) -> None:
    with guest() as visitor, pytest.raises(ObjectLostError, match="was already freed by its owner"):
        visitor.read(new_id(), [session.core().node])


def test_what_is_lost_is_made_again_by_its_owner(ray: Any, tmp_path: Path) -> None:
    @ray.remote
    def makes() -> pa.Table:
        with (tmp_path / "runs").open("a") as runs:
            runs.write("x")
        if (tmp_path / "runs").stat().st_size == 2:
            wait_until((tmp_path / "go").exists)
        return TABLE

    ref = makes.remote()
    ray.wait([ref])
    some, here = ObjectId(ref.binary()), [session.core().node]
    with guest() as visitor:
        visitor.free([some])  # behind its owner's back
        with pytest.raises(
            ObjectLostError, match=r"being made again, which took more than 0.2 s\..* Run the action again"
        ):
            visitor.read(some, here, 0.2)
        (tmp_path / "go").touch()
        assert visitor.read(some, here) == TABLE


def test_why_it_cannot_be_made_again_is_told(ray: Any, tmp_path: Path) -> None:
    @ray.remote(max_retries=1)
    def makes() -> pa.Table:
        (tmp_path / "ran").mkdir()
        return TABLE

    ref = makes.remote()
    ray.wait([ref])
    with guest() as visitor:
        visitor.free([ObjectId(ref.binary())])
        with pytest.raises(FileExistsError):
            visitor.read(ObjectId(ref.binary()), [session.core().node])


def test_a_wrong_token_or_folder_is_told_in_a_sentence(ray: Any) -> None:
    core = session.core()
    with pytest.raises(NodeDiedError, match="cannot be used from this process"):
        Guest(core.folder, bytes(32), core.node)
    with pytest.raises(NodeDiedError, match="cannot connect"):
        Guest(core.folder + "-elsewhere", core.token, core.node)
