"""What notebooks show of the session, references and handles; and all keys of `nodes()`."""

from __future__ import annotations

from typing import Any


def test_everything_is_escaped_and_short(ray: Any) -> None:
    class Actor: ...

    Actor.__name__ = "<script>alert(1)</script>"
    handle = ray.remote(Actor).remote()
    ref = ray.put("<b>")
    session = ray.session.current()
    for shown in (handle._repr_html_(), ref._repr_html_(), session._repr_html_()):
        assert "<script>" not in shown
        assert len(shown) < 4000
    assert "&lt;script&gt;" in handle._repr_html_()
    assert ref.hex() in ref._repr_html_()
    assert "is there" in ref._repr_html_()
    assert session["address"] in session._repr_html_()


def test_nodes_have_ray_s_keys(ray: Any) -> None:
    (node,) = ray.nodes()
    assert node.keys() >= {
        "NodeID",
        "Alive",
        "NodeManagerAddress",
        "NodeManagerHostname",
        "NodeManagerPort",
        "ObjectManagerPort",
        "ObjectStoreSocketName",
        "RayletSocketName",
        "MetricsExportPort",
        "NodeName",
        "RuntimeEnvAgentPort",
        "DeathReason",
        "DeathReasonMessage",
        "alive",
        "Resources",
        "Labels",
    }
    assert node["alive"] is node["Alive"] is True
    assert node["NodeManagerPort"] == int(node["Address"].rpartition(":")[2])
