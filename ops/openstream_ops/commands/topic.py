"""`openstream topic …`: make, look at, change, remove."""

from typing import Annotated, Any

import typer

from openstream_ops.options import Json, TokenFile, Topic, Url, Yes

topic = typer.Typer(no_args_is_help=True, help="Topics: create, list, describe, alter, delete.")
COLUMNS = {
    "TOPIC": "topic", "PARTITIONS": "partitions", "LENGTH": "length", "UNPERSISTED": "unpersisted", "GROUPS": "groups",
    "LAG": "lag",
}  # fmt: skip

Partitions = Annotated[int | None, typer.Option("--partitions", "-p", min=1, help="How many partitions.")]
Retention = Annotated[str | None, typer.Option(help="How long Redis keeps an event: 15m, 2h, 7d; `default`.")]
RetentionSize = Annotated[str | None, typer.Option(help="Bytes a partition keeps in Redis: 512M; `default`.")]
History = Annotated[str | None, typer.Option(help="How long PostgreSQL keeps an event: 90d; `default`: for ever.")]
MaxLength = Annotated[str | None, typer.Option(help="Events of a partition from which producers wait; `default`.")]


@topic.command("create")
def create(
    name: Topic,
    partitions: Partitions = None,
    retention: Retention = None,
    retention_size: RetentionSize = None,
    history: History = None,
    max_length: MaxLength = None,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Create a topic. One that exists is refused: `alter` changes it."""
    import msgspec

    from openstream_client import Conflict, NotFound, OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output

    wish = _settings(retention, retention_size, history, max_length)

    async def work(client: OpenStream) -> Any:
        try:
            await client.topic(name)
        except NotFound:
            return await client.create_topic(name, partitions=partitions, **wish)
        raise Conflict(f"there is a topic {name!r} already")

    made = ask(work, url, token_file)
    Output(json).record(msgspec.to_builtins(made), f"created {name}")


@topic.command("list")
def list_topics(url: Url = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Every topic the token covers, with its groups' lag."""
    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output
    from openstream_ops.sums import topic_rows

    async def work(client: OpenStream) -> Any:
        return topic_rows(await client.topics(), await client.summary())

    hint = "no topic yet: `openstream topic create NAME`, or just produce to one"
    Output(json).rows(ask(work, url, token_file), COLUMNS, empty=hint)


@topic.command("describe")
def describe(name: Topic, url: Url = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Settings, partitions and groups of a topic."""
    import msgspec

    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output
    from openstream_ops.sums import group_rows, partition_rows

    async def work(client: OpenStream) -> Any:
        return await client.topic(name), await client.summary()

    found, summary = ask(work, url, token_file)
    settings = msgspec.to_builtins(found)
    partitions, groups = partition_rows(summary, name), group_rows(summary, name)
    output = Output(json)
    if not output.is_table:
        output.record({**settings, "partition_stats": partitions, "groups": groups})
        return
    output.record(settings)
    output.rows(
        partitions,
        {"PARTITION": "partition", "LENGTH": "length", "LAST ID": "last_id", "PERSISTED ID": "persisted_id",
         "UNPERSISTED": "unpersisted", "OWNER": "owner"},
    )  # fmt: skip
    output.rows(
        groups,
        {"GROUP": "group", "CONSUMERS": "consumers", "PENDING": "pending", "LAG": "lag"},
        empty="no group reads it",
    )


@topic.command("alter")
def alter(
    name: Topic,
    retention: Retention = None,
    retention_size: RetentionSize = None,
    history: History = None,
    max_length: MaxLength = None,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Change what is given and leave the rest; `default` takes a setting back."""
    import msgspec

    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.errors import UsageError
    from openstream_ops.output import Output

    wish = _settings(retention, retention_size, history, max_length)
    if not wish:
        raise UsageError("nothing to change", "give --retention, --retention-size, --history or --max-length")

    async def work(client: OpenStream) -> Any:
        now = await client.topic(name)
        # A PUT sets all of them: what we do not repeat would go back to its default.
        kept = {field: getattr(now, field) for field in SETTINGS}
        return await client.create_topic(name, **{**kept, **wish})

    Output(json).record(msgspec.to_builtins(ask(work, url, token_file)), f"changed {name}")


@topic.command("delete")
def delete(name: Topic, yes: Yes = False, url: Url = None, token_file: TokenFile = None) -> None:
    """Delete a topic for good: its streams, its groups and its history in PostgreSQL."""
    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.confirming import confirm
    from openstream_ops.output import Output

    async def look(client: OpenStream) -> Any:
        return await client.topic(name)

    async def work(client: OpenStream) -> None:
        await client.delete_topic(name)

    ask(look, url, token_file)
    confirm(f"This deletes {name} with its groups and its whole history.", name, yes)
    ask(work, url, token_file)
    Output().done(f"deleting {name} in the background")


SETTINGS = ("retention_ms", "retention_bytes", "history_ms", "max_stream_len")


def _settings(
    retention: str | None, retention_size: str | None, history: str | None, max_length: str | None
) -> dict[str, Any]:
    """What was given; None for `default`."""
    from openstream_ops.quantities import duration_ms, size_bytes

    given = zip(
        SETTINGS,
        (retention, retention_size, history, max_length),
        (duration_ms, size_bytes, duration_ms, size_bytes),
        strict=True,
    )
    return {name: None if text == "default" else parse(text) for name, text, parse in given if text is not None}
