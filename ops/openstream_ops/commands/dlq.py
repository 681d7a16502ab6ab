"""`openstream dlq …`: what a group gave up on, and the way back."""

import sys
from typing import Annotated, Any

import typer

from openstream_ops.options import Group, Json, TokenFile, Topic, Url, Yes

dlq = typer.Typer(no_args_is_help=True, help="Dead letters of a group: list, redrive.")
#: Where the original stands is in the JSON: two ids are too wide for a terminal.
COLUMNS = {"LETTER": "letter_id", "AGO": "ago", "REASON": "reason", "TRIES": "deliveries", "TYPE": "event_type",
           "KEY": "partition_key", "BACK": "redriven", "PAYLOAD": "shown"}  # fmt: skip
MAY_BREAK = {"event_type", "partition_key", "shown"}
#: Letters of one request.
PAGE = 500
SHOWN_CHARS = 60


@dlq.command("list")
def list_letters(
    topic: Topic,
    group: Group,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="So many at most.")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="Without a limit.")] = False,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those that did not go back yet.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Dead letters, oldest first in each partition, with the reason and where the originals stand."""
    from openstream_client import OpenStream
    from openstream_ops.asking import Stop, ask_until_stopped
    from openstream_ops.dead_letters import rows_of
    from openstream_ops.output import Output

    output = Output(json)
    most = None if everything else limit
    shown: list[dict[str, Any]] = []

    async def work(client: OpenStream, stop: Stop) -> bool:
        """Whether there is more. A pipe gets each page as it comes."""
        left, next_id = most, None
        while True:
            page = await client.dead_letters(topic, group, limit=PAGE, from_id=next_id)
            rows = [row for row in rows_of(page, SHOWN_CHARS, output.is_table) if not (waiting and row["redriven"])]
            if left is not None:
                rows, over = rows[:left], len(rows) > left
                left -= len(rows)
            else:
                over = False
            if output.is_table:
                shown.extend(rows)
            else:
                output.rows(rows, {})
            next_id = page.next_id
            if over or next_id is None or left == 0 or stop.requested:
                return over or next_id is not None

    more = ask_until_stopped(work, url, token_file)
    if output.is_table:
        output.rows(shown, COLUMNS, empty=f"{group} of {topic} has given up on nothing", may_break=MAY_BREAK)
    if more:
        sys.stderr.write("there are more: --all shows them\n")


@dlq.command("redrive")
def redrive(
    topic: Topic,
    group: Group,
    letters: Annotated[
        list[str] | None, typer.Argument(help="Letters, as `dlq list` names them.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every letter that did not go back yet.")] = False,
    to: Annotated[
        str, typer.Option("--to", help="group: only this one sees them again; topic: every group.")
    ] = "group",
    yes: Yes = False,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Send dead letters back as new events at the end of their topic, each once, however often it is asked for.

    Interrupted, the same command goes on: what went back does not go again. Exit code 1 when there is no such letter.
    """
    from openstream_client import OpenStream
    from openstream_ops.asking import Stop, ask_until_stopped
    from openstream_ops.confirming import confirm
    from openstream_ops.dead_letters import Redrive
    from openstream_ops.errors import Interrupted, UsageError
    from openstream_ops.output import Output
    from openstream_ops.progress import Meter

    if to not in {"group", "topic"}:
        raise UsageError(f"there is nothing called {to!r} to send them to", "group or topic")
    if everything == bool(letters):
        raise UsageError("either letters or --all", "`openstream dlq list TOPIC GROUP` shows them")
    if everything:
        confirm(f"This sends every dead letter of {group} back to the {to}.", group, yes)

    with Meter("redrive", None) as meter:

        async def work(client: OpenStream, stop: Stop) -> Redrive:
            done = Redrive(topic, group, to)
            await done.run(
                client, stop, letters, lambda: meter.at(done.redriven + done.already, f"{done.redriven:,} went back")
            )
            return done

        done = ask_until_stopped(work, url, token_file)
    Output(json).record(done.record(), f"{done.redriven:,} went back, {done.already:,} had before")
    for letter in done.unknown:
        sys.stderr.write(f"no such letter: {letter}\n")
    if done.interrupted:
        raise Interrupted(f"interrupted after {done.redriven:,} letters", "the same command goes on from there")
    if done.unknown:
        raise typer.Exit(1)
