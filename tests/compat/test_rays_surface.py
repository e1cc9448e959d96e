"""Every public name of Ray 2.60's core is here, in the same module and with the same arguments and defaults.

`rays_surface.json` was read from Ray 2.60.0 by introspection: of each module its public names; of functions and methods
("call", "members") and of exceptions ("init") the arguments that programs can name, "*" before those that are given by
keyword only, and their defaults. What is not here, or is otherwise on purpose, stands below with the reason.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray import exceptions
from sparkray.runtime_env import RuntimeEnv, RuntimeEnvConfig
from sparkray.util import debug

SURFACE: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "rays_surface.json").read_text())

# Not there, or there otherwise: why. Names of modules stand before the first name.
_INTERNAL = "of Ray's inside"
_OTHER_LANGUAGES = "there are no Java or C++ workers"
_LATER = "docs/differences.md, Not there yet"
NOT_HERE: dict[str, str] = {
    # other languages, other kinds of drivers, further libraries
    **dict.fromkeys(["Language", "cpp_function", "java_actor_class", "java_function"], _OTHER_LANGUAGES),
    **dict.fromkeys(["client", "ClientBuilder", "util.connect", "util.disconnect"], _LATER),
    **dict.fromkeys(["autoscaler", "workflow", "util.collective", "util.iter", "util.accelerators.tpu"], _LATER),
    **dict.fromkeys(["util.pdb", "util.ray_debugpy", "util.get_node_instance_id"], _LATER),
    **dict.fromkeys(["actor.ActorClass.bind", "actor.ActorMethod.bind", "remote_function.RemoteFunction.bind"], _LATER),
    **dict.fromkeys(["ObjectRef.tensor_transport", "ObjectID.tensor_transport"], _LATER),
    # ids of things that have none here, and how Ray's are put together
    **dict.fromkeys(["ActorClassID", "FunctionID", "ActorID.of", "PlacementGroupID.of", "TaskID.actor_id"], _INTERNAL),
    **{f"TaskID.for_{kind}_task": _INTERNAL for kind in ("actor", "actor_creation", "driver", "fake", "normal")},
    "util.placement_group.PlacementGroupID.of": _INTERNAL,
    # the rest of Ray's inside
    **dict.fromkeys(["SCRIPT_MODE", "WORKER_MODE", "internal", "widgets"], _INTERNAL),
    **dict.fromkeys(["util.state.StateApiClient", "util.state.api.warnings_on_slow_request"], _INTERNAL),
    **{f"ObjectRefGenerator.{name}": "Ray's raises NotImplementedError" for name in ("send", "throw", "close")},
    **{f"ObjectRefGenerator.{name}": "Ray's raises NotImplementedError" for name in ("asend", "athrow", "aclose")},
    "exceptions.ActorDiedError.from_task_error": _INTERNAL,
    "exceptions.RayTaskError.make_dual_exception_instance": _INTERNAL,
    "exceptions.ObjectReconstructionFailedError.REASON_MESSAGES": "the reason is a word: docs/differences.md",
    "job_config.JobConfig.ensure_logging_config": _INTERNAL,
    "job_config.JobConfig.set_py_logging_config": "init(logging_config=...)",
    "util.state.common.ActorState.num_restarts_due_to_lineage_reconstruction": "there are none",
    "util.state.common.ActorState.num_restarts_due_to_node_preemption": "there are none",
    "util.state.common.PlacementGroupState.topology_assignments": "nodes have no topology",
    "util.state.common.PlacementGroupState.topology_strategy": "nodes have no topology",
}
# Members of Ray's own machinery (protobuf, columns of its command line, fields that are refused by name here).
INTERNAL_MEMBERS = {
    "exceptions": {"to_bytes", "from_bytes", "from_ray_exception", "BASE_ERROR_MSG"},
    "util.state.common": {"base_columns", "detail_columns", "filterable_columns", "humanify", "schema_dict"}
    | {"fallback_strategy"},
    "runtime_env": {"build_proto_runtime_env_config", "default_config", "from_proto", "known_fields"}
    | {"parse_and_validate_runtime_env_config", "extensions_fields", "get_extension", "plugin_uris", "plugins"}
    | {"conda_config", "conda_env_name", "conda_uri", "has_conda", "has_pip", "has_py_container", "has_uv"}
    | {"image_uri", "java_jars", "nsight", "pip_config", "pip_uri", "py_container_image", "py_executable"}
    | {"py_container_run_options", "py_container_worker_path", "py_modules_uris", "rocprof_sys", "uv_config"}
    | {"uv_uri", "virtualenv_name", "working_dir_uri", "to_dict"},
    "": {"redis_shard_hash"},
    "types": {"redis_shard_hash"},
    "util.placement_group": {"redis_shard_hash"},
}
# Classes that programs make themselves.
MADE_BY_PROGRAMS = ("exceptions", "job_config", "util.actor_pool", "util.metrics", "util.multiprocessing", "util.queue")
# Arguments that are taken in another way: by `**fields`, with Ray's names checked one by one.
BY_KEYWORD = {"runtime_env.RuntimeEnv", "runtime_env.RuntimeEnvConfig", "init"}


def arguments(what: Any) -> list[str] | None:
    """As in rays_surface.json; None if Python does not tell."""
    try:
        parameters = inspect.signature(what).parameters.values()
    except (TypeError, ValueError):
        return None
    return [
        ("*" if one.kind is one.KEYWORD_ONLY else "")
        + one.name
        + ("" if one.default is one.empty else f"={one.default!r}")
        for one in parameters
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and one.name not in ("self", "cls")
        if not one.name.startswith("_")
    ]


def misfits(theirs: list[str], ours: list[str]) -> list[str]:
    """What a call that Ray takes would stumble over."""
    names = {one.partition("=")[0]: one for one in ours}
    wrong = [one for one in theirs if one not in ours and (("=" in one) or one not in names)]
    positional = [one.partition("=")[0] for one in theirs if not one.startswith("*")]
    mine = [one.partition("=")[0] for one in ours if not one.startswith("*")]
    if mine[: len(positional)] != positional:
        wrong.append(f"the order {positional}")
    return wrong


def differences(module: str) -> list[str]:
    found = []
    here = importlib.import_module(f"sparkray.{module}".rstrip("."))
    for name, facts in SURFACE[module].items():
        path = f"{module}.{name}".lstrip(".")
        if path in NOT_HERE:
            assert not hasattr(here, name), f"{path} is here: take it off the list"
            continue
        if not hasattr(here, name):
            found.append(f"{path}: not there")
            continue
        mine = getattr(here, name)
        calls = [(path, facts.get("call"), mine)]
        if module in MADE_BY_PROGRAMS:
            calls.append((f"{path}()", facts.get("init"), mine))
        for member, theirs in facts.get("members", {}).items():
            place = f"{path}.{member}"
            if place in NOT_HERE or member in INTERNAL_MEMBERS.get(module, ()):
                continue
            if member in getattr(mine, "__dataclass_fields__", ()):
                continue
            if not hasattr(mine, member):
                found.append(f"{place}: not there")
            else:
                calls.append((place, theirs, getattr(mine, member)))
        for place, theirs, what in calls:
            ours = arguments(what)
            if theirs and ours is not None and path not in BY_KEYWORD and (wrong := misfits(theirs, ours)):
                found.append(f"{place}: {', '.join(wrong)}; it has {', '.join(ours)}")
        bases = [base.__name__ for base in getattr(mine, "__mro__", ())]
        found += [f"{path}: is no {base}" for base in facts.get("bases", ()) if base not in bases]
    return found


@pytest.mark.parametrize("module", SURFACE)
def test_names_arguments_and_defaults_are_rays(module: str) -> None:
    assert differences(module) == []


def test_init_takes_each_of_rays_keywords() -> None:
    from sparkray import init, init_arguments

    named = {one.strip("*").partition("=")[0] for one in arguments(init) or ()}
    theirs = {one.strip("*").partition("=")[0] for one in SURFACE[""]["init"]["call"]}

    assert len(theirs) > 20
    assert theirs - named <= init_arguments._NO_EFFECT.keys()


def test_what_is_said_to_be_told_elsewhere_is() -> None:
    told = (Path(__file__).parents[2] / "docs" / "differences.md").read_text().partition("## Not there yet")[2]
    words = ["ray.client", "workflow", "collective", "util.iter", "bind", "tensor", "rpdb", "tpu", "autoscaler"]

    assert [word for word in words if word not in told] == []


def test_errors_that_programs_make_have_rays_attributes_and_can_be_pickled() -> None:
    made = [
        exceptions.RayActorError("aa", error_msg="gone", preempted=True),
        exceptions.ActorDiedError("gone"),
        exceptions.ActorDiedError(exceptions.RayTaskError("f", "its traceback", ValueError("no"), actor_id="aa")),
        exceptions.ActorUnavailableError("gone", "aa"),
        exceptions.ObjectLostError("ff", None, "here"),
        exceptions.ObjectReconstructionFailedError("ff", reason_message="gone"),
        exceptions.TaskCancelledError("aa"),
        exceptions.RaySystemError("gone", "its traceback"),
        exceptions.OutOfMemoryError("gone"),
        exceptions.RuntimeEnvSetupError("gone"),
        exceptions.RayTaskError("f", "its traceback", ValueError("no"), pid=3, ip="1.2.3.4").as_instanceof_cause(),
    ]
    for error in made:
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error)
        facts = {name: value for name, value in vars(error).items() if name != "cause"}
        assert {name: vars(again).get(name) for name in facts} == facts
    assert (made[0].preempted, made[0].error_msg) == (True, "gone")
    assert made[2].actor_init_failed
    assert "its traceback" in str(made[2])
    assert "ff" in str(made[4])
    assert "aa" in str(made[6])


def test_ids_of_jobs_are_numbers() -> None:
    assert (sparkray.JobID.from_int(1).hex(), sparkray.JobID.from_hex("01000000").int()) == ("01000000", 1)


def test_log_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_logged", "_disabled", "_periodic", "_last_logged"):
        monkeypatch.setattr(debug, name, copy.copy(getattr(debug, name)))
    assert [debug.log_once("a"), debug.log_once("a"), debug.log_once("b")] == [True, False, True]
    debug.reset_log_once("a")
    assert [debug.log_once("a"), debug.log_once("b")] == [True, False]
    debug.enable_periodic_logging()
    monkeypatch.setattr(debug, "_last_logged", time.monotonic() - 61)
    assert [debug.log_once("a"), debug.log_once("a")] == [True, False]
    debug.disable_log_once_globally()
    assert not debug.log_once("c")


def test_a_runtime_env_can_be_written_down_and_read_back(tmp_path: Path) -> None:
    env = RuntimeEnv(working_dir=str(tmp_path), env_vars={"A": "b"}, config={"setup_timeout_seconds": 9})
    env.set("excludes", ["*.log"])

    assert RuntimeEnv.deserialize(env.serialize()) == env
    assert env.has_working_dir()
    assert env.get("config", data_class=RuntimeEnvConfig) == RuntimeEnvConfig(9)
    with pytest.raises(ValueError, match="no field 'nonsense'"):
        env.set("nonsense", 1)
