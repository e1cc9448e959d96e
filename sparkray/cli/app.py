"""The commands together, and what is the same for all: how errors are told, and the exit codes.

0   done
1   it failed; one line on stderr says why
2   the command line is wrong
3   there is no session to speak to
"""

from __future__ import annotations

from typing import Annotated

import typer

from sparkray.cli import doctor_command, node_commands, process_commands, state_commands

app = typer.Typer(
    name="sparkray",
    help="Start and stop nodes of sparkray, and look into sessions that are up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (node_commands, state_commands, process_commands, doctor_command):
    commands.add_to(app)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        import sparkray

        typer.echo(sparkray.__version__)
        raise typer.Exit()


def main() -> int:
    """Run the command line of this process; the exit code comes back."""
    try:
        app(standalone_mode=True)
    except SystemExit as leave:  # typer's own way to return
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    return 0
