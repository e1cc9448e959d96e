"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Address = Annotated[
    str | None, typer.Option(help="HOST:PORT of the session's head; the latest session of this host if not given.")
]
KeyFile = Annotated[
    str | None, typer.Option(help="Where the session's key is; else SPARKRAY_KEY, or the file in SPARKRAY_KEY_FILE.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs, instead of tables.")]
