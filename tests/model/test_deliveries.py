"""Blocks that somebody outside has stored in an owner's name, and who makes them again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sparkray_core.ids import NodeId, ProcessId, raylet_of
from sparkray_core.messages import (
    FAILED,
    STORED,
    AskObjects,
    EndSession,
    FreeObjects,
    NodeGone,
    ObjectMissing,
    ObjectMoved,
    ObjectReady,
    Value,
)
from sparkray_core.model.deliveries import Delivery
from sparkray_core.model.effects import Effect, MakeAgain, Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.lineage import LINEAGE_EVICTED, MAKER_FAILED, NO_MAKER, RECORD_BYTES
from sparkray_core.model.owner import Owner, OwnerLimits
from tests.model.test_lineage import check, end, freed_by, node_dies, reason, run, want, worker_of
from tests.model.test_owner import ME, NODE, OTHER_NODE, REMOTE, Bench, pushed_by

THIRD_NODE = NodeId(b"node-3..")
THERE: Value = (STORED, 1000, (OTHER_NODE,))
HERE: Value = (STORED, 1000, (NODE,))
MAKER = "how Spark does it"
NUMBER = 1 << 63 | 7  # of no task


@pytest.fixture
def bench() -> Bench:
    return Bench()


def delivered(bench: Bench, blocks: int = 2, maker: object = MAKER, number: int = NUMBER) -> Delivery:
    delivery = Delivery(number, "from_spark", [Entry(ME, number, index) for index in range(blocks)], maker)
    assert bench.owner.deliver(delivery, [THERE] * blocks) == []
    return delivery


def made(bench: Bench, what: list[Value] | tuple[str, str], nodes: Sequence[NodeId] = ()) -> list[Effect]:
    return bench.owner.made_again(NUMBER, what, nodes, bench.now)


def drop(bench: Bench, delivery: Delivery) -> list[Effect]:
    return bench.owner.drop(delivery.returns)


AGAIN = MakeAgain(NUMBER, MAKER)


def test_a_block_that_is_passed_on_before_it_is_known_to_be_made_again_is_where_it_went(bench: Bench) -> None:
    delivery = delivered(bench, blocks=1)
    (block,) = delivery.returns
    node_dies(bench)
    bench.owner.want([block], bench.now)
    assert bench.hear(ObjectMoved(block.id, NODE, THIRD_NODE)) == []
    check(bench, [delivery])

    effects = made(bench, [HERE])

    assert block.value == (STORED, 1000, (THIRD_NODE,))
    assert freed_by(effects) == {block.id}
    check(bench, [delivery])


def test_a_lost_block_is_made_again_when_somebody_wants_it_once_for_all_of_its_partition(bench: Bench) -> None:
    delivery = delivered(bench)
    first, second = delivery.returns

    assert node_dies(bench) == []
    assert (first.value, second.value) == (None, None)
    assert bench.owner.want([first], bench.now) == [AGAIN]
    assert bench.owner.want([second, first], bench.now) == []
    assert made(bench, [HERE, HERE]) == []
    assert (first.value, second.value) == (HERE, HERE)
    check(bench, [delivery])

    bench.hear(NodeGone(NODE, "again"))
    assert want(bench, delivery) == [AGAIN]


def test_blocks_that_are_let_go_of_are_freed_and_their_maker_with_them(bench: Bench) -> None:
    delivery = delivered(bench)

    assert freed_by(drop(bench, delivery)) == {entry.id for entry in delivery.returns}
    assert not bench.owner.lineage.records
    assert bench.owner.lineage.bytes == 0


def test_a_lost_block_that_nobody_holds_is_forgotten(bench: Bench) -> None:
    delivery = delivered(bench)
    node_dies(bench)

    assert drop(bench, delivery) == []
    assert not bench.owner.lineage.records


def test_who_waits_is_told_why_it_cannot_be_made_again(bench: Bench) -> None:
    delivery = delivered(bench)
    node_dies(bench)
    want(bench, delivery)

    made(bench, (MAKER_FAILED, "the SparkContext that computed it was stopped"), [NODE])
    assert [reason(entry) for entry in delivery.returns] == [MAKER_FAILED] * 2
    value = delivery.returns[0].value
    assert isinstance(value, tuple)
    assert value[2] == (
        f"object {delivery.returns[0].id.hex()}, which from_spark() had stored, was only on node {OTHER_NODE.hex()}, "
        f"which died: power cut, and could not be made again: the SparkContext that computed it was stopped"
    )
    assert want(bench, delivery) == []
    check(bench, [delivery])


def test_without_a_maker_it_is_lost_for_good(bench: Bench) -> None:
    delivery = delivered(bench, maker=None)
    node_dies(bench)

    assert want(bench, delivery) == []
    assert [reason(entry) for entry in delivery.returns] == [NO_MAKER] * 2
    check(bench, [delivery])


def test_a_task_whose_argument_is_lost_waits_until_it_is_made_again(bench: Bench) -> None:
    delivery = delivered(bench)
    node_dies(bench)
    task = bench.task(refs=[delivery.returns[1]])

    assert bench.submit(task) == [AGAIN]
    made(bench, [HERE, HERE])
    assert worker_of(bench, task)
    end(bench, task, HERE)
    check(bench, [delivery, task])


def test_a_task_fails_with_what_its_argument_s_maker_says(bench: Bench) -> None:
    delivery = delivered(bench)
    node_dies(bench)
    task = bench.task(refs=[delivery.returns[1]])
    bench.submit(task)
    made(bench, (MAKER_FAILED, "no"))

    value = task.returns[0].value
    assert isinstance(value, tuple)
    assert value[:2] == (FAILED, "ObjectReconstructionFailedError")


def test_a_result_is_made_again_from_blocks_that_were_let_go_of(bench: Bench) -> None:
    """What was computed of a block does not keep its bytes, but how it is made."""
    delivery = delivered(bench)
    task = bench.task(refs=[delivery.returns[0]])
    run(bench, task)
    assert freed_by(drop(bench, delivery)) == {entry.id for entry in delivery.returns}
    assert NUMBER in bench.owner.lineage.records

    node_dies(bench)
    assert want(bench, task) == [AGAIN]
    # The other block has no use: it goes as soon as it comes.
    assert freed_by(made(bench, [HERE, HERE])) == {delivery.returns[1].id}
    end(bench, task, HERE)
    check(bench, [task])
    assert delivery.returns[0].value is None
    assert freed_by(bench.owner.drop(task.returns)) == {task.returns[0].id}
    assert not bench.owner.lineage.records


def test_a_borrower_who_does_not_find_it_has_it_made_again(bench: Bench) -> None:
    delivery = delivered(bench)
    some = delivery.returns[0].id

    assert bench.hear(ObjectMissing(some, [OTHER_NODE]), REMOTE) == [AGAIN]
    assert bench.hear(AskObjects([some]), ProcessId(NODE + b"worker-9")) == []
    told = [effect for effect in made(bench, [HERE, HERE]) if isinstance(effect.message, ObjectReady)]  # type: ignore[union-attr]
    assert [(effect.to[8:], effect.message) for effect in told] == [  # type: ignore[union-attr]
        (b"worker-3", ObjectReady(some, HERE)),
        (b"worker-9", ObjectReady(some, HERE)),
    ]


def test_a_block_that_was_not_lost_stays_and_its_second_making_goes(bench: Bench) -> None:
    delivery = delivered(bench)
    kept: Value = (STORED, 1000, (THIRD_NODE,))
    delivery.returns[1].value = kept
    node_dies(bench)
    bench.owner.want(delivery.returns, bench.now)

    effects = made(bench, [HERE, HERE])
    assert effects == [Send(raylet_of(NODE), FreeObjects([delivery.returns[1].id]))]
    assert delivery.returns[1].value == kept
    check(bench, [delivery])


def test_what_other_attempts_have_written_is_freed_now_and_once_more_at_the_end(bench: Bench) -> None:
    delivery = delivered(bench, blocks=1)
    some = delivery.returns[0].id
    node_dies(bench)
    want(bench, delivery)

    assert made(bench, [HERE], [NODE, THIRD_NODE]) == [Send(raylet_of(THIRD_NODE), FreeObjects([some]))]
    freed = {effect.to for effect in drop(bench, delivery) if isinstance(effect, Send)}
    assert freed == {raylet_of(NODE), raylet_of(THIRD_NODE)}


def test_blocks_that_nobody_wants_any_more_when_they_come_are_freed(bench: Bench) -> None:
    delivery = delivered(bench)
    node_dies(bench)
    want(bench, delivery)
    drop(bench, delivery)

    effects = made(bench, [HERE, HERE], [NODE, THIRD_NODE])
    assert freed_by(effects) == {entry.id for entry in delivery.returns}
    assert {effect.to for effect in effects if isinstance(effect, Send)} == {raylet_of(NODE), raylet_of(THIRD_NODE)}
    assert not bench.owner.lineage.records
    assert not bench.owner.refs.exported
    check(bench)


def test_blocks_that_get_lost_again_on_their_way_are_made_once_more(bench: Bench) -> None:
    delivery = delivered(bench)
    node_dies(bench)
    want(bench, delivery)
    made(bench, [THERE, THERE])  # that node has just died; who reads it finds out

    assert bench.owner.missed(delivery.returns[0], [OTHER_NODE], bench.now) == (None, [AGAIN])
    check(bench, [delivery])


def test_beyond_lineage_bytes_the_maker_of_the_oldest_is_forgotten() -> None:
    bench = Bench()
    bench.owner = Owner(ME, OwnerLimits(lineage_bytes=2 * RECORD_BYTES - 1))
    oldest, other = delivered(bench, 1), delivered(bench, 1, number=NUMBER + 1)
    node_dies(bench)

    assert want(bench, oldest, other) == [MakeAgain(NUMBER + 1, MAKER)]
    assert reason(oldest.returns[0]) == LINEAGE_EVICTED


def test_an_answer_after_the_end_of_the_session_says_nothing(bench: Bench) -> None:
    delivery = delivered(bench)
    node_dies(bench)
    want(bench, delivery)
    bench.hear(EndSession("it is late"))

    assert made(bench, [HERE, HERE], [NODE]) == []
    value = delivery.returns[0].value
    assert isinstance(value, tuple)
    assert value[:2] == (FAILED, "RaySystemError")
    assert pushed_by(bench.owner.want(delivery.returns, bench.now)) == []
    assert bench.owner.lineage.bytes == 0
