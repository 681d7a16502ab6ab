"""`openstream group alter | pause | resume`, and the options for what can be set on a group."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from openstream_ops.options import Group, Json, TokenFile, Topic, Url

MaxDeliveries = Annotated[
    str | None,
    typer.Option("--max-deliveries", help="Handed out so often, then it is a dead letter.", show_default=False),
]
ClaimIdle = Annotated[
    str | None,
    typer.Option("--claim-idle", help="Held so long without an ack (30s), then it is another's.", show_default=False),
]
DeadLetterTopic = Annotated[
    str | None, typer.Option("--dead-letter-topic", help="Where dead letters go.", show_default=False)
]


def alter(
    topic: Topic,
    name: Group,
    max_deliveries: MaxDeliveries = None,
    claim_idle: ClaimIdle = None,
    dead_letter_topic: DeadLetterTopic = None,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Change what is given and leave the rest; `default` takes a setting back."""
    from openstream_ops.errors import UsageError

    wish = settings(max_deliveries, claim_idle, dead_letter_topic)
    if not wish:
        raise UsageError("nothing to change", "give --max-deliveries, --claim-idle or --dead-letter-topic")
    _change(topic, name, wish, f"changed {name}", url, token_file, json)


def pause(topic: Topic, name: Group, url: Url = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Hand out nothing, on all nodes within a second or so. What is held goes on and can be acked."""
    _change(topic, name, {"paused": True}, f"paused {name}", url, token_file, json)


def resume(topic: Topic, name: Group, url: Url = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Go on where a paused group was."""
    _change(topic, name, {"paused": False}, f"resumed {name}", url, token_file, json)


def settings(max_deliveries: str | None, claim_idle: str | None, dead_letter_topic: str | None) -> dict[str, Any]:
    """What was given; None for `default`."""
    from openstream_ops.errors import UsageError
    from openstream_ops.quantities import duration_ms

    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal()):
            raise UsageError(f"{text!r} is not a number of deliveries", "5, or default: without end")
        return int(text)

    given: dict[str, tuple[str | None, Callable[[str], Any]]] = {
        "max_deliveries": (max_deliveries, number),
        "claim_idle_ms": (claim_idle, duration_ms),
        "dead_letter_topic": (dead_letter_topic, str),
    }
    return {
        name: None if text == "default" else parse(text) for name, (text, parse) in given.items() if text is not None
    }


def _change(
    topic: str, name: str, wish: dict[str, Any], title: str, url: str | None, token_file: Any, json: bool
) -> None:
    import msgspec

    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output

    async def work(client: OpenStream) -> Any:
        return await client.alter_group(topic, name, **wish)

    Output(json).record(msgspec.to_builtins(ask(work, url, token_file)), title)
