"""The `openstream` command: which words it knows, and how failures are told."""

import sys
from typing import Annotated

import typer

from openstream_ops.commands.bench import bench
from openstream_ops.commands.consume import consume, tail
from openstream_ops.commands.demo import demo
from openstream_ops.commands.dev import dev
from openstream_ops.commands.dlq import dlq
from openstream_ops.commands.doctor import doctor
from openstream_ops.commands.group import group
from openstream_ops.commands.node import node
from openstream_ops.commands.produce import produce
from openstream_ops.commands.replay import replay
from openstream_ops.commands.status import status
from openstream_ops.commands.token import token
from openstream_ops.commands.topic import topic
from openstream_ops.commands.tree import tree
from openstream_ops.errors import OpsError

app = typer.Typer(
    name="openstream",
    no_args_is_help=True,
    # Typer's own tracebacks show local variables, and ours hold secrets.
    pretty_exceptions_enable=False,
)
# In the order in which a person meets them.
for _command in (dev, node, status, doctor, demo, produce, consume, tail, tree, bench):
    app.command(_command.__name__)(_command)
for _group, _name in ((topic, "topic"), (group, "group"), (dlq, "dlq"), (replay, "replay"), (token, "token")):
    app.add_typer(_group, name=_name)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"openstream {metadata.version('openstream-runtime')}")
        raise typer.Exit


@app.callback()
def openstream(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Event streaming over HTTP, on Redis or Valkey Streams and PostgreSQL.

    Commands that talk to a node find it by --url, $OPENSTREAM_URL or the last `openstream dev`, and their token by
    --token-file, $OPENSTREAM_TOKEN or the same. On a terminal they print tables, in a pipe one JSON object a line.

    Exit codes: 0 done · 1 the node said no, or something is wrong · 2 the command line is wrong · 3 no node answered ·
    4 the token is missing or may not · 5 the node stayed overloaded · 130 interrupted.
    """


def main() -> None:
    """The console script. Expected failures are a sentence and an exit code, never a traceback."""
    try:
        app()
    except OpsError as failure:
        if failure.exit_code == 0:  # an end that was asked for, `openstream … | head` for one
            sys.exit(0)
        from openstream_ops.screen import Screen

        Screen().error(failure.message, failure.hint)
        sys.exit(failure.exit_code)
