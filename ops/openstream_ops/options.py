"""Options that every command which talks to a node has."""

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[
    str | None,
    typer.Option("--url", help="URL of a node; several with commas. [default: $OPENSTREAM_URL, or the last `dev`]"),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with the token. [default: $OPENSTREAM_TOKEN, or that of the last `dev`]"),
]
Json = Annotated[bool, typer.Option("--json", help="JSON, one object a line, also on a terminal.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Topic = Annotated[str, typer.Argument(help="Name of the topic.", show_default=False)]
Group = Annotated[str, typer.Argument(help="Name of the group.", show_default=False)]
