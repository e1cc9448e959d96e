"""What travels to the keeper is the same when it arrives, and nonsense is refused with a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sparkray_core.ids import NodeId
from sparkray_core.run.config import BadConfig, NodeConfig, ProcessTie, StdinTie
from sparkray_core.settings import Settings


def a_config(**changes: Any) -> NodeConfig:
    facts: dict[str, Any] = {
        "session": "s1",
        "node": NodeId(b"abcdefgh"),
        "token": bytes(range(32)),
        "is_head": True,
        "head_address": None,
        "resources": {"CPU": 2000},
        "store_bytes": 1 << 20,
    }
    return NodeConfig(**facts | changes)


@pytest.mark.parametrize("tie", [StdinTie(), ProcessTie(17, 12345.0)])
def test_config_survives_the_way_through_json(tie: StdinTie | ProcessTie) -> None:
    config = a_config(
        tie=tie,
        is_head=False,
        head_address="tcp://10.0.0.1:6379",
        curve_public=b"p" * 40,
        curve_secret=b"s" * 40,
        labels={"zone": "a"},
        sys_path=("", "/x"),
        cwd="/",
        prestart=3,
        settings=Settings(inline_bytes=7, infeasible_grace_s=float("inf")),
    )

    line = config.to_json()

    assert "\n" not in line
    assert NodeConfig.from_json(line) == config


def test_secrets_do_not_show_in_the_repr() -> None:
    settings = Settings(gcs_storage="redis://:UUU@host")
    config = a_config(token=b"T" * 32, curve_public=b"p" * 40, curve_secret=b"S" * 40, settings=settings)

    assert "TTT" not in repr(config)
    assert "SSS" not in repr(config)
    assert "UUU" not in repr(config)


def test_workers_get_neither_the_curve_keys_nor_where_the_gcs_writes() -> None:
    settings = Settings(gcs_storage="redis://:secret@host", inline_bytes=7)
    config = a_config(curve_public=b"p" * 40, curve_secret=b"s" * 40, settings=settings).without_secrets()

    assert (config.curve_public, config.curve_secret) == (None, None)
    assert config.settings == Settings(inline_bytes=7)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"session": "../up"}, "session"),
        ({"session": "a..b"}, "session"),
        ({"session": ""}, "session"),
        ({"node": NodeId(b"short")}, "node has 5 bytes"),
        ({"token": b"short"}, "token has 5 bytes"),
        ({"is_head": False}, "head_address"),
        ({"curve_public": b"p" * 40}, "go together"),
        ({"store_bytes": 0}, "store_bytes"),
        ({"resources": {"CPU": -1}}, "resource"),
        ({"base_folder": "/tmp/" + "x" * 80}, "choose a shorter base_folder"),
    ],
)
def test_a_value_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        a_config(**changes)


@pytest.mark.parametrize(
    "change",
    [
        {"tie": {"kind": "moon"}},
        {"tie": {"kind": "process"}},
        {"surprise": 1},
        {"token": "not hex"},
        {"node": 5},
        {"settings": {"log_level": "LOUD"}},
    ],
)
def test_a_line_with_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadConfig):
        NodeConfig.from_json(json.dumps(json.loads(a_config().to_json()) | change))


@pytest.mark.parametrize("line", [b"", b"\xff\xfe", b"[]", b"{}", b"null", b'{"session"'])
def test_a_line_that_is_no_config_is_refused(line: bytes) -> None:
    with pytest.raises(BadConfig):
        NodeConfig.from_json(line)
