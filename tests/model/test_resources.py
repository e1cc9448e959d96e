from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkray_core.model.resources import fits, from_floats, minus, plus, short_of, show, show_bytes, times

AMOUNTS = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory", "tpu"]), st.integers(1, 10_000), max_size=4)


@given(AMOUNTS, AMOUNTS)
def test_what_is_taken_and_given_back_leaves_what_there_was(free: dict[str, int], taken: dict[str, int]) -> None:
    assert plus(minus(free, taken), taken) == free
    assert minus(plus(free, taken), taken) == free


@given(AMOUNTS, AMOUNTS)
def test_what_fits_leaves_nothing_below_zero_and_is_short_of_nothing(
    free: dict[str, int], wanted: dict[str, int]
) -> None:
    assert fits(wanted, free) == all(amount >= 0 for amount in minus(free, wanted).values())
    assert fits(wanted, free) == (short_of(wanted, free) == [])
    assert fits(wanted, free) == (times(wanted, free) != 0)


@pytest.mark.parametrize(
    ("amount", "thousandths"), [(0.1, 100), (0.29, 290), (1, 1000), (0.0001, 1), (2.0004, 2001), (1 / 3, 334)]
)
def test_user_amounts_are_rounded_up_to_thousandths(amount: float, thousandths: int) -> None:
    assert from_floats({"CPU": amount}) == {"CPU": thousandths}


def test_zero_is_the_same_as_absent() -> None:
    assert from_floats({"CPU": 0, "GPU": 0.0}) == {}
    assert fits({}, {"CPU": -1000})
    assert fits({"GPU": 0}, {})


@pytest.mark.parametrize("amount", [-1, float("inf"), float("nan")])
def test_impossible_amount_is_refused_by_name(amount: float) -> None:
    with pytest.raises(ValueError, match="GPU="):
        from_floats({"GPU": amount})


def test_amounts_are_shown_in_words() -> None:
    assert show({"CPU": 1500, "GPU": -1000, "memory": (4 << 30) * 1000}) == "1.5 CPU, -1 GPU, 4 GiB memory"
    assert show({}) == "nothing"
    assert [show_bytes(size) for size in (0, 512, 1536, 5 << 40)] == ["0 B", "512 B", "1.5 KiB", "5 TiB"]
