from __future__ import annotations

from random import Random

import pytest

from sparkray_core.testing.agenda import Agenda


def test_what_is_due_first_comes_first_and_of_equals_what_was_put_down_first() -> None:
    dice, agenda = Random(7), Agenda()
    done: list[tuple[float, int]] = []

    def do(now: float, number: int) -> None:
        done.append((now, number))
        if len(done) < 2000:
            for _ in range(dice.choice((0, 1, 2))):
                # Not before this, some of it at once, some in this slice, some much later.
                put_down.append(now + dice.choice((0.0, 0.00001, 0.0004, 0.003, 2.0)))
                agenda.at(put_down[-1], do, len(put_down) - 1)

    put_down = [dice.choice((0.0, 0.5, 0.5001, 7.0)) for _ in range(100)]
    for number, when in enumerate(put_down):
        agenda.at(when, do, number)
    while len(done) < len(put_down):
        now, _, then, args = agenda.pop()
        then(now, *args)

    assert done == sorted((when, number) for number, when in enumerate(put_down))
    with pytest.raises(IndexError):
        agenda.pop()
