"""`openstream consume` and `openstream tail`: events on the terminal or in a pipe, with a group and without one."""

from typing import Annotated, Any

import typer

from openstream_ops.options import Json, TokenFile, Topic, Url

Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Stop after so many.", show_default=False)]


def consume(
    topic: Topic,
    group: Annotated[str, typer.Option("--group", "-g", help="Consumer group.", show_default=False)],
    consumer: Annotated[str | None, typer.Option(help="Name of this consumer. [default: host and pid]")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C.")] = False,
    limit: Limit = None,
    create: Annotated[
        str | None,
        typer.Option(
            "--create", help="Create the group there if it is new: earliest, latest, a time.", show_default=False
        ),
    ] = None,
    ack: Annotated[bool, typer.Option(help="Acknowledge what was printed.")] = True,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Print a group's events and acknowledge each after it was printed.

    Without --follow it ends when nothing more is there. Ctrl-C acknowledges what was printed; what was only fetched
    goes to the next reader.
    """
    from openstream_client import OpenStream
    from openstream_ops.asking import Stop, ask_until_stopped
    from openstream_ops.consuming import print_group
    from openstream_ops.output import Output
    from openstream_ops.quantities import place

    output = Output(json)

    async def work(client: OpenStream, stop: Stop) -> None:
        if create is not None:
            start_id, start_ms = place(create)
            await client.create_group(topic, group, start_id=start_id, start_ms=start_ms)
        options: dict[str, Any] = {"consumer": consumer, "ack": ack, "follow": follow, "limit": limit}
        await print_group(client, stop, output, topic, group, **options)

    ask_until_stopped(work, url, token_file)


def tail(
    topic: Topic,
    begin: Annotated[
        str | None, typer.Option("--from", help="A time, or 15m for that long ago. [default: now]")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="Only this key.", show_default=False)] = None,
    event_type: Annotated[str | None, typer.Option("--type", "-t", help="Only this type.", show_default=False)] = None,
    limit: Limit = None,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Print events as they come, without a group: nobody's position moves."""
    from openstream_client import OpenStream
    from openstream_ops.asking import Stop, ask_until_stopped
    from openstream_ops.output import Output
    from openstream_ops.quantities import time_ms
    from openstream_ops.tailing import Tail

    output = Output(json)
    from_ms = None if begin is None else time_ms(begin)

    async def work(client: OpenStream, stop: Stop) -> None:
        await Tail(client, topic, key=key, event_type=event_type).run(stop, output, from_ms=from_ms, limit=limit)

    ask_until_stopped(work, url, token_file)
