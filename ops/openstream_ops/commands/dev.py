"""`openstream dev`: everything on this machine, nothing to install besides."""

from pathlib import Path
from typing import Annotated

import typer

from openstream_ops.errors import UsageError


def dev(
    host: Annotated[str, typer.Option(help="Loopback address the nodes listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the first node; the others follow.")] = 8000,
    nodes: Annotated[int, typer.Option(min=1, max=32, help="How many nodes.")] = 1,
    servers_only: Annotated[bool, typer.Option("--servers-only", help="Only Valkey and PostgreSQL.")] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where data is kept. By default $XDG_DATA_HOME/openstream/dev.", show_default=False),
    ] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Keep nothing.")] = False,
) -> None:
    """Start Valkey, PostgreSQL and nodes on this machine; Ctrl-C stops them. Not for production."""
    # Here and not above: `openstream --version` and `openstream node` have no use for any of it.
    from openstream_ops.data_dir import default_data_dir
    from openstream_ops.launcher import Launcher, Plan
    from openstream_ops.screen import Screen

    if ephemeral and data_dir is not None:
        raise UsageError("--ephemeral keeps nothing, so it takes no --data-dir")
    if port + nodes - 1 > 65535:
        raise UsageError(f"{nodes} ports from {port} on go past 65535", "choose a lower --port")
    where = None if ephemeral else data_dir or default_data_dir()
    plan = Plan(where, host=host, port=port, nodes=nodes, servers_only=servers_only)
    raise typer.Exit(Launcher(plan, Screen()).run())
