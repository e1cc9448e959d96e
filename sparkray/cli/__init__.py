"""The command `sparkray`: start and stop nodes, and look into sessions that are up."""

from sparkray.cli.app import app, main

__all__ = ["app", "main"]
