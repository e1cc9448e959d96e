"""`sparkray start`, `sparkray stop` and `sparkray drain`."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from types import FrameType
from typing import Annotated, Any

import typer

from sparkray.cli.failures import FAILED, WRONG_USE, fail, in_one_sentence
from sparkray.cli.options import Address, KeyFile
from sparkray.draining import begin_draining, wait_left
from sparkray.joining import bare, find
from sparkray.node_command import (
    DEFAULT_PORT,
    LOOPBACK,
    Offer,
    published_at,
    start_further,
    start_head,
    started_nodes,
    stop_all,
    wait_end,
)
from sparkray.visit import visiting
from sparkray_core.run.settings_sources import resolve
from sparkray_core.run.start import StartedNode


def add_to(app: typer.Typer) -> None:
    app.command()(start)
    app.command()(stop)
    app.command()(drain)


def start(
    head: Annotated[bool, typer.Option("--head", help="Start a session, with its head here.")] = False,
    address: Annotated[str | None, typer.Option(help="HOST:PORT of the head of the session to join.")] = None,
    num_cpus: Annotated[float | None, typer.Option(help="CPUs to hand out; all of this machine if not given.")] = None,
    num_gpus: Annotated[float | None, typer.Option(help="GPUs to hand out; all of NVIDIA's if not given.")] = None,
    resources: Annotated[str, typer.Option(help="Further resources: a JSON object of names and numbers.")] = "{}",
    labels: Annotated[str, typer.Option(help="What describes this node: k=v,k=v or a JSON object of strings.")] = "",
    object_store_memory: Annotated[
        int | None, typer.Option(help="Bytes of the store; 30 % of the machine's memory if not given.")
    ] = None,
    port: Annotated[int, typer.Option(help="Where the head listens (with --head); 0 takes a free one.")] = DEFAULT_PORT,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            "--node-ip-address",
            help="The address to listen on, by which others reach this node. For a head loopback, if not given.",
        ),
    ] = None,
    key_file: KeyFile = None,
    block: Annotated[bool, typer.Option("--block", help="Stay; the node ends with this command.")] = False,
) -> None:
    """Start a node that belongs to no driver: the first of a new session (--head), or a further one (--address)."""
    if head == (address is not None):
        raise fail("say either --head, for a new session, or --address=HOST:PORT, for a further node", WRONG_USE)
    with in_one_sentence():
        offer = Offer(
            num_cpus,
            num_gpus,
            _json_object("--resources", resources, (int, float)),
            _labels(labels),
            object_store_memory,
        )
        if head:
            node = start_head(offer, host or LOOPBACK, port, tied=block)
        else:
            assert address is not None
            target = find(address, key_file, resolve().base_folder)
            assert target is not None
            node = start_further(offer, target.address, target.key, host, tied=block)
    where = bare(node.head_address)
    said = _head_text(where, published_at(node)) if head else f"This node has joined the session at {where}."
    if block:
        _stay(node, said)
    else:
        typer.echo(said)


def _stay(node: StartedNode, said: str) -> None:
    """Until the node ends, or a signal comes, which ends it."""
    signals: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        signals.append(number)
        node.stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    typer.echo(said)
    wait_end(node)
    if not signals:
        raise fail("the node has ended", FAILED)


def _head_text(where: str, key_file: str) -> str:
    return f"""\
The session is up; its head listens at {where}.

  drivers here:           sparkray.init(address="auto"), or just sparkray.init()
  a further node here:    sparkray start --address={where}
  other machines:         copy {key_file}
                          to where only you can read it, and there
                          sparkray start --address={where} --key-file=COPY
                          SPARKRAY_KEY_FILE=COPY python driver.py     # sparkray.init(address="{where}")
  what goes on:           sparkray status
  the end:                sparkray stop

Who has the key can run code as you. On a loopback address other machines do not reach it: use --host."""


def stop(
    force: Annotated[bool, typer.Option("--force", "-f", help="Kill at once, without a word to the nodes.")] = False,
) -> None:
    """End all nodes that `sparkray start` started here, as this user; with a head its session ends everywhere."""
    with in_one_sentence():
        if not started_nodes():
            stop_all(force)  # sweeps what the killed left
            typer.echo("No node that `sparkray start` started is up here.")
            return
        report = stop_all(force)
    typer.echo(str(report))
    if not report.clean:
        raise fail("not everything is gone; see above", FAILED)


def drain(
    node: Annotated[str, typer.Argument(help="Its id, or the first characters of it: `sparkray list nodes`.")],
    reason: Annotated[str, typer.Option(help="Why, for those who wonder.")] = "",
    deadline: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which it leaves whatever still runs there; it waits without end if not given."
        ),
    ] = None,
    idle_only: Annotated[bool, typer.Option("--idle-only", help="Only if it has nothing to do now.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until it has left.")] = False,
    address: Address = None,
    key_file: KeyFile = None,
) -> None:
    """Have a node leave its session without loss: nothing new goes there, what runs there finishes, objects and actors
    that may be restarted move to other nodes."""
    with in_one_sentence(), visiting(address, key_file) as core:
        some = begin_draining(core, node, reason, deadline, idle_only)
        typer.echo(f"Node {some.hex()} is being drained.")
        if no_wait:
            return
        wait_left(core, some, _tell_what_holds_up)
    typer.echo("It has left.")


def _tell_what_holds_up(counts: dict[str, int]) -> None:
    if counts:
        typer.echo("  it waits for " + ", ".join(f"{count} {what}" for what, count in counts.items()))


def _json_object(option: str, text: str, kinds: tuple[type, ...]) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise fail(f"{option} is not JSON: {error}", WRONG_USE) from None
    if not isinstance(value, dict) or not all(type(one) in kinds for one in value.values()):
        names = " or ".join("text" if kind is str else "a number" for kind in kinds[:1])
        raise fail(f"{option} must be a JSON object whose values are each {names}", WRONG_USE)
    return value


def _labels(text: str) -> Mapping[str, str]:
    if text.lstrip().startswith("{"):
        return _json_object("--labels", text, (str,))
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(name and equals for name, equals, _ in pairs):
        raise fail(f"--labels {text!r} is neither a JSON object nor k=v,k=v", WRONG_USE)
    return {name.strip(): value.strip() for name, _, value in pairs}
