"""BigDL's arguments that are not needed any more: accepted, with a word on what replaces them."""

from __future__ import annotations

import pytest

from sparkray.bigdl_arguments import OBSOLETE, warn_of_obsolete


@pytest.mark.parametrize("name", OBSOLETE)
def test_each_obsolete_argument_says_what_replaces_it(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"RayContext: {name} has no effect any more: .{{20,}}"):
        warn_of_obsolete({name: 7}, "RayContext", 2)


def test_one_that_says_nothing_is_no_reason_for_a_word() -> None:
    warn_of_obsolete({"redis_port": None}, "RayContext", 2)


def test_an_unknown_argument_is_refused_as_python_does() -> None:
    with pytest.raises(TypeError, match=r"RayContext\(\) got an unexpected keyword argument 'colour'"):
        warn_of_obsolete({"colour": "red"}, "RayContext", 2)
