"""`openstream group …`: consumer groups, where they stand, and moving them."""

from typing import Annotated, Any

import typer

from openstream_ops.commands.group_settings import (
    ClaimIdle,
    DeadLetterTopic,
    MaxDeliveries,
    alter,
    pause,
    resume,
    settings,
)
from openstream_ops.options import Group, Json, TokenFile, Topic, Url, Yes

group = typer.Typer(no_args_is_help=True, help="Consumer groups: where they are, their settings, moving them.")

To = Annotated[
    str,
    typer.Option(
        "--to",
        help="earliest, latest, an id, a time (2026-11-23T09:00Z), or 15m for that long ago.",
        show_default=False,
    ),
]


@group.command("list")
def list_groups(
    topic: Annotated[str | None, typer.Argument(help="Of this topic; without it of all.", show_default=False)] = None,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Groups with their lag."""
    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output
    from openstream_ops.sums import group_rows

    async def work(client: OpenStream) -> Any:
        names = [topic] if topic is not None else [one.topic for one in await client.topics()]
        summary = await client.summary()
        rows = []
        for name in names:
            sampled = {row["group"]: row for row in group_rows(summary, name)}
            unsampled = {"consumers": None, "pending": None, "lag": None}
            rows += [sampled.get(one, {"topic": name, "group": one, **unsampled}) for one in await client.groups(name)]
        return rows

    columns = {"TOPIC": "topic", "GROUP": "group", "CONSUMERS": "consumers", "PENDING": "pending", "LAG": "lag"}
    hint = "no group yet: `openstream group create TOPIC NAME`"
    Output(json).rows(ask(work, url, token_file), columns, empty=hint)


@group.command("describe")
def describe(topic: Topic, name: Group, url: Url = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Where a group stands on each partition, and who its consumers are."""
    import msgspec

    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output, shown
    from openstream_ops.quantities import since_ms

    async def work(client: OpenStream) -> Any:
        return msgspec.to_builtins(await client.group(topic, name))

    found = ask(work, url, token_file)
    output = Output(json)
    if not output.is_table:
        output.record(found)
        return
    paused = ", paused" if found["paused"] else ""
    output.say(f"{topic} / {name}: {shown(found['lag'])} behind, {shown(found['pending'])} pending{paused}")
    if found["max_deliveries"] is not None:
        output.say(f"after {shown(found['max_deliveries'])} deliveries to {found['dead_letter_topic']}")
    rows = [
        {
            **part,
            "behind": "-" if part["lag"] is None else since_ms(part["lag_ms"]),
            "who": ", ".join(
                f"{one['name']} ({one['pending']} pending, idle {since_ms(one['idle_ms'])})"
                for one in part["consumers"]
            ),
        }
        for part in found["partitions"]
    ]
    output.rows(
        rows,
        {"PARTITION": "partition", "LAST DELIVERED": "last_delivered_id", "LAG": "lag", "BEHIND": "behind",
         "PENDING": "pending", "FROM": "served_from", "CONSUMERS": "who"},
    )  # fmt: skip


@group.command("create")
def create(
    topic: Topic,
    name: Group,
    begin: Annotated[
        str, typer.Option("--from", help="earliest, latest, an id, a time, or 15m for that long ago.")
    ] = "latest",
    max_deliveries: MaxDeliveries = None,
    claim_idle: ClaimIdle = None,
    dead_letter_topic: DeadLetterTopic = None,
    persisted: Annotated[bool, typer.Option("--persisted", help="Deliver only what PostgreSQL has.")] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Hand out nothing until it is resumed.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Create a group on every partition of a topic. One that exists stays as it is."""
    import msgspec

    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output
    from openstream_ops.quantities import place

    start_id, start_ms = place(begin)
    wish = settings(max_deliveries, claim_idle, dead_letter_topic)
    if persisted:
        wish["visibility"] = "persisted"

    async def work(client: OpenStream) -> Any:
        return await client.create_group(topic, name, start_id=start_id, start_ms=start_ms, paused=paused, **wish)

    made = ask(work, url, token_file)
    title = f"created {name} on {topic}" if made.created else f"{name} exists on {topic}; it stays where it is"
    Output(json).record(msgspec.to_builtins(made), title)


group.command("alter")(alter)
group.command("pause")(pause)
group.command("resume")(resume)


@group.command("reset")
def reset(
    topic: Topic,
    name: Group,
    to: To,
    partitions: Annotated[
        list[int] | None, typer.Option("--partition", help="Only this one; may be repeated.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen, and stop there.")] = False,
    yes: Yes = False,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Move a group. Shows old → new for each partition first; what was pending is dropped."""
    import msgspec

    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.confirming import confirm
    from openstream_ops.output import Output
    from openstream_ops.quantities import place
    from openstream_ops.reset_preview import preview

    start_id, start_ms = place(to)

    async def look(client: OpenStream) -> Any:
        return await preview(client, topic, name, start_id=start_id, start_ms=start_ms, partitions=partitions)

    async def work(client: OpenStream) -> Any:
        return await client.reset_group(topic, name, start_id=start_id, start_ms=start_ms, partitions=partitions)

    output = Output(json)
    if dry_run or not yes:
        rows = msgspec.to_builtins(ask(look, url, token_file).partitions)
        columns = {
            "PARTITION": "partition",
            "OLD": "from_id",
            "NEW": "to_id",
            "REPLAYED": "replayed",
            "SKIPPED": "skipped",
            "DROPPED": "pending",
        }
        if any(row["at_least"] for row in rows):
            columns["OR MORE"] = "at_least"
        if output.is_table or dry_run:
            output.rows(rows, columns)
    if dry_run:
        return
    confirm(f"This moves {name} of {topic}.", name, yes)
    done = ask(work, url, token_file)
    output.record(msgspec.to_builtins(done), f"moved {name}")


@group.command("delete")
def delete(topic: Topic, name: Group, yes: Yes = False, url: Url = None, token_file: TokenFile = None) -> None:
    """Delete a group with its position and what it had pending."""
    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.confirming import confirm
    from openstream_ops.output import Output

    async def look(client: OpenStream) -> Any:
        return await client.group(topic, name)

    async def work(client: OpenStream) -> None:
        await client.delete_group(topic, name)

    ask(look, url, token_file)
    confirm(f"This deletes {name} of {topic}; where it stood is forgotten.", name, yes)
    ask(work, url, token_file)
    Output().done(f"deleted {name}")
