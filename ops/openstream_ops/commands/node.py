"""`openstream node`: one node, configured by the environment."""

import importlib
import os
from typing import Annotated

import typer


def node(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. [default: $OPENSTREAM_HOST or 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on. [default: $OPENSTREAM_PORT or 8000]")
    ] = None,
) -> None:
    """Run one node on the Redis and PostgreSQL that the environment names."""
    # Here and not above: only this command pays for the whole runtime's imports.
    from openstream_ops.screen import Screen
    from openstream_runtime.settings import Settings, SettingsError

    try:
        settings = Settings.from_env(os.environ, host=host, port=port)
    except SettingsError as error:
        screen = Screen()
        for problem in error.problems:
            screen.error(problem)
        screen.hint("README.md lists every setting; `openstream dev` makes all of them by itself")
        raise typer.Exit(2) from None
    main = importlib.import_module("openstream_http.main")
    raise typer.Exit(main.run_node(settings))
