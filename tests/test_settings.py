"""Every setting can be given in four ways, the nearest one wins, and what is wrong is refused by name. No process."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparkray import settings as public
from sparkray_core.run.limits import head_limits, node_limits, peer_silence_s
from sparkray_core.run.settings_sources import resolve
from sparkray_core.settings import FIELDS, OTHER_VARIABLES, BadSetting, Settings, variable

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings file but what the test writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def env(**variables: str) -> dict[str, str]:
    return {"HOME": os.environ["HOME"], **variables}


def test_without_any_source_all_are_at_their_default() -> None:
    assert resolve({}, env()) == Settings()
    assert Settings().changed() == {}


def test_keyword_wins_over_environment_over_file_over_default(nowhere: Path) -> None:
    (nowhere / "sparkray.toml").write_text("inline_bytes = 1\ntask_max_retries = 1\nreply_limit_s = 1\n")
    environment = env(SPARKRAY_INLINE_BYTES="2", SPARKRAY_TASK_MAX_RETRIES="2")

    found = resolve({"inline_bytes": 3}, environment)

    assert found == Settings(inline_bytes=3, task_max_retries=2, reply_limit_s=1.0)
    assert found.changed() == {"inline_bytes": 3, "task_max_retries": 2, "reply_limit_s": 1.0}
    assert Settings(**found.changed()) == found


def test_the_file_is_the_one_named_else_the_folders_else_the_homes(nowhere: Path) -> None:
    config = nowhere / "home" / ".config"
    config.mkdir(parents=True)
    (config / "sparkray.toml").write_text("inline_bytes = 3")
    assert resolve({}, env()).inline_bytes == 3
    (nowhere / "xdg").mkdir()
    (nowhere / "xdg" / "sparkray.toml").write_text("inline_bytes = 4")
    assert resolve({}, env(XDG_CONFIG_HOME=str(nowhere / "xdg"))).inline_bytes == 4
    (nowhere / "sparkray.toml").write_text("inline_bytes = 2")
    assert resolve({}, env()).inline_bytes == 2
    (nowhere / "mine.toml").write_text('inline_bytes = "1k"')
    assert resolve({}, env(SPARKRAY_CONFIG="mine.toml")).inline_bytes == 1024


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("inline_bytes", "4k", 4096),
        ("inline_bytes", "1MiB", 1 << 20),
        ("inline_bytes", " 17 ", 17),
        ("infeasible_grace_s", "inf", math.inf),
        ("infeasible_grace_s", "2", 2.0),
        ("task_max_retries", "-1", -1),
        ("idle_workers", "none", None),
        ("idle_workers", "7", 7),
        ("keep_logs", "/x", "/x"),
        ("log_level", "DEBUG", "DEBUG"),
        ("enable_auto_connect", "0", False),
        ("enable_auto_connect", "Yes", True),
        ("enable_auto_connect", "", True),  # not set
    ],
)
def test_a_variable_is_read_as_the_settings_type(name: str, text: str, value: Any) -> None:
    found = getattr(resolve({}, env(**{variable(name): text})), name)

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("inline_bytes", "much", r"a whole number \(bytes\), not 'much'"),
        ("inline_bytes", "-1", "from 0 to"),
        ("inline_bytes", "1g", "from 0 to"),
        ("inline_bytes", "none", "whole number"),
        ("infeasible_grace_s", "nan", "a number"),
        ("infeasible_grace_s", "-1", r"at least 0 \(seconds\)"),
        ("start_limit_s", "0", "at least 1"),
        ("task_max_retries", "1.5", "whole number"),
        ("enable_auto_connect", "maybe", "true or false"),
        ("log_level", "LOUD", "one of DEBUG"),
    ],
)
def test_a_variable_that_cannot_be_is_refused_by_name(name: str, text: str, words: str) -> None:
    with pytest.raises(BadSetting, match=f"the environment's {variable(name)}: {name} must be .*{words}"):
        resolve({name: FIELDS[name].default}, env(**{variable(name): text}))  # also where a keyword would win


def test_a_wrong_name_is_refused_wherever_it_is_with_the_nearest_right_one(nowhere: Path) -> None:
    with pytest.raises(BadSetting, match=r"in code: there is no setting inline_byte\. Did you mean inline_bytes\?"):
        resolve({"inline_byte": 1}, env())
    with pytest.raises(BadSetting, match=r"the environment: .*SPARKRAY_INLINE_BYTE\. .*mean SPARKRAY_INLINE_BYTES\?"):
        resolve({}, env(SPARKRAY_INLINE_BYTE="1"))
    with pytest.raises(BadSetting, match="SPARKRAY_inline_bytes"):
        resolve({}, env(SPARKRAY_inline_bytes="1"))
    (nowhere / "sparkray.toml").write_text("keeplogs = 'x'")
    with pytest.raises(BadSetting, match=r"sparkray\.toml: there is no setting keeplogs\. Did you mean keep_logs\?"):
        resolve({}, env())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inline_bytes = 1.5", "must be a whole number"),
        ("inline_bytes = true", "must be a whole number"),
        ("reply_limit_s = 'soon'", "must be a number"),
        ("enable_auto_connect = 1", "must be true or false"),
        ("keep_logs = 1", "must be a string"),
        ("[inline_bytes]", "must be a whole number"),
        ("inline_bytes = = 1", "no TOML"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_its_path(nowhere: Path, text: str, words: str) -> None:
    (nowhere / "mine.toml").write_text(text)

    with pytest.raises(BadSetting, match=rf"mine\.toml: .*{words}"):
        resolve({}, env(SPARKRAY_CONFIG="mine.toml"))


def test_a_named_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"nowhere\.toml: the settings cannot be read: No such file"):
        resolve({}, env(SPARKRAY_CONFIG="nowhere.toml"))


def test_rays_variables_count_unless_ours_says_otherwise() -> None:
    assert resolve({}, env(RAY_TASK_MAX_RETRIES="0")).task_max_retries == 0
    assert resolve({}, env(RAY_ENABLE_AUTO_CONNECT="0")).enable_auto_connect is False
    assert resolve({}, env(RAY_TASK_MAX_RETRIES="0", SPARKRAY_TASK_MAX_RETRIES="5")).task_max_retries == 5
    with pytest.raises(BadSetting, match="RAY_TASK_MAX_RETRIES"):
        resolve({}, env(RAY_TASK_MAX_RETRIES="few"))


def test_variables_that_are_no_settings_are_let_be() -> None:
    there = {name: "x" for name in OTHER_VARIABLES if name != "SPARKRAY_CONFIG"}
    assert resolve({}, env(**there, SPARK_HOME="/x", SPARKRAYS="3")) == Settings()


def test_settings_themselves_are_checked() -> None:
    with pytest.raises(BadSetting, match="log_level"):
        Settings(log_level="LOUD")


def test_every_setting_says_what_it_is() -> None:
    for name, one in FIELDS.items():
        assert len(one.metadata["reason"]) > 20, name
        assert one.metadata["unit"] or not str(one.type).startswith(("int", "float")), name


def test_the_models_go_by_the_settings() -> None:
    settings = Settings(node_timeout_s=9.0, infeasible_grace_s=8.0, idle_workers=7, store_wait_s=6.0)

    assert (head_limits(settings).node_timeout_s, head_limits(settings).infeasible_grace_s) == (9.0, 8.0)
    limits = node_limits(settings, 5)
    assert (limits.warm_workers, limits.keep_idle, limits.room_s) == (5, 7, 6.0)
    assert peer_silence_s(settings) > settings.node_timeout_s


def test_the_example_file_holds_every_setting_at_its_default(nowhere: Path) -> None:
    text = (ROOT / "conf" / "sparkray.toml").read_text()
    assert text == public.example(), "run: python -m sparkray.settings --example > conf/sparkray.toml"
    settings = re.findall(r"^# (\w+) =(.*)$", text, re.MULTILINE)
    assert [name for name, _ in settings] == list(FIELDS)
    (nowhere / "sparkray.toml").write_text("\n".join(f"{name} ={value}" for name, value in settings if value))

    assert resolve({}, env()) == Settings()


def test_the_documents_have_the_table_of_the_code() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    assert public.markdown() in text, "put the output of python -m sparkray.settings --markdown there"
    assert all(f"`{name}` | {what} |" in text for name, what in OTHER_VARIABLES.items())


def test_the_command_prints_what_counts_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKRAY_INLINE_BYTES", "7")
    assert public.main([]) == 0
    printed = capsys.readouterr().out
    assert "inline_bytes = 7 (bytes)   (default: 102400)" in printed
    assert "idle_workers = none" in printed
    monkeypatch.setenv("SPARKRAY_INLINE_BYTES", "x")
    assert public.main([]) == 1
    assert "SPARKRAY_INLINE_BYTES" in capsys.readouterr().err
    assert public.main(["--nonsense"]) == 2


def test_no_toml_reader_is_imported_where_there_is_no_file() -> None:
    code = (
        "import sys; from sparkray_core.run.settings_sources import resolve; resolve()\n"
        "print([name for name in ('tomllib', 'tomli', 'difflib') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
