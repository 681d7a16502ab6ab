"""The `openstream` command: which words it knows, and how failures are told."""

import sys
from importlib import metadata
from typing import Annotated

import typer

from openstream_ops.commands.dev import dev
from openstream_ops.commands.node import node
from openstream_ops.errors import OpsError

app = typer.Typer(
    name="openstream",
    no_args_is_help=True,
    # Typer's own tracebacks show local variables, and ours hold secrets.
    pretty_exceptions_enable=False,
)
app.command("node")(node)
app.command("dev")(dev)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"openstream {metadata.version('openstream-runtime')}")
        raise typer.Exit


@app.callback()
def openstream(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Event streaming over HTTP, on Redis or Valkey Streams and PostgreSQL."""


def main() -> None:
    """The console script. Expected failures are a sentence and an exit code, never a traceback."""
    try:
        app()
    except OpsError as failure:
        from openstream_ops.screen import Screen

        Screen().error(failure.message, failure.hint)
        sys.exit(failure.exit_code)
