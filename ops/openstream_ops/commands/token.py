"""`openstream token …`: tokens for producers and consumers."""

from pathlib import Path
from typing import Annotated

import typer

from openstream_ops.options import Json, Url

token = typer.Typer(no_args_is_help=True, help="Tokens: mint.")


@token.callback()
def _group() -> None:
    """A group even with one command, so that `token mint` stays its name when there are more."""


@token.command("mint")
def mint(
    role: Annotated[str, typer.Option(help="producer, consumer or admin.")] = "consumer",
    sub: Annotated[str, typer.Option(help="Who it is for; in logs and quotas.")] = "cli",
    ttl: Annotated[str, typer.Option(help="How long it is good: 1h, 1d at most.")] = "1h",
    topics: Annotated[
        list[str] | None, typer.Option("--topic", help="Only these (globs); may be repeated.", show_default=False)
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="File with the admin secret. [default: $AUTH_ADMIN_SECRET, or asked for]")
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Print a token. The admin secret is read from a file, the environment or the terminal, never from an argument."""
    import os
    import sys

    import msgspec

    from openstream_client import Forbidden, OpenStream
    from openstream_client.models import Token
    from openstream_ops.asking import ask
    from openstream_ops.errors import NotAllowed, UsageError
    from openstream_ops.output import Output
    from openstream_ops.quantities import duration_ms

    if role not in {"producer", "consumer", "admin"}:
        raise UsageError(f"there is no role {role!r}", "producer, consumer or admin")
    secret = os.environ.get("AUTH_ADMIN_SECRET", "")
    if secret_file is not None:
        try:
            secret = secret_file.read_text().strip()
        except OSError as error:
            raise UsageError(f"cannot read {secret_file}: {error.strerror}") from error
    elif not secret and sys.stdin.isatty():
        secret = typer.prompt("admin secret", hide_input=True, err=True)
    if not secret:
        raise UsageError("no admin secret", "set AUTH_ADMIN_SECRET or give --secret-file")

    async def work(client: OpenStream) -> Token:
        try:
            return await client.mint_token(sub, role, secret, ttl_s=max(1, duration_ms(ttl) // 1000), topics=topics)
        except Forbidden as error:
            raise NotAllowed(error.detail, "the secret is AUTH_ADMIN_SECRET of the node") from error

    made = ask(work, url, None)
    output = Output(json)
    # Bare also in a pipe: `openstream token mint > FILE` is what --token-file reads.
    output.lines([msgspec.json.encode(made) if json else made.token.encode()])
