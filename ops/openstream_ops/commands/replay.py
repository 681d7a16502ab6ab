"""`openstream replay …`: copying history into another topic."""

from typing import Annotated, Any

import typer

from openstream_ops.options import Json, TokenFile, Topic, Url

replay = typer.Typer(no_args_is_help=True, help="Replays of history into another topic: start, list, status, cancel.")
COLUMNS = {"REPLAY": "replay_id", "STATE": "state", "FROM": "topic", "TO": "target_topic", "COPIED": "copied",
           "TOTAL": "total", "RATE/S": "rate", "LEFT": "left"}  # fmt: skip
ENDED = {"done", "failed", "cancelled"}

Replay = Annotated[str, typer.Argument(help="Id of the replay.", show_default=False)]


@replay.command("start")
def start(
    topic: Topic,
    target: Annotated[str, typer.Argument(help="Topic that gets the copies.", show_default=False)],
    begin: Annotated[
        str | None, typer.Option("--from", help="Time or id of the first event.", show_default=False)
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Time or id of the last event.", show_default=False)] = None,
    partitions: Annotated[
        list[int] | None, typer.Option("--partition", help="Only this one; may be repeated.", show_default=False)
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Events a second at most.", show_default=False)] = None,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Start a replay. It runs in the cluster: it goes on when this command, or the node that runs it, is gone."""
    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.errors import UsageError
    from openstream_ops.output import Output
    from openstream_ops.quantities import place

    from_id, from_ms = (None, None) if begin is None else place(begin)
    to_id, to_ms = (None, None) if end is None else place(end)
    from_id, to_id = (None if from_id in {"0-0", "$"} else from_id), (None if to_id in {"0-0", "$"} else to_id)
    if (from_id or to_id) and (from_ms is not None or to_ms is not None):
        raise UsageError("--from and --to are either both times or both ids")

    async def work(client: OpenStream) -> Any:
        return await client.start_replay(
            topic,
            target,
            from_id=from_id,
            from_ms=from_ms,
            to_id=to_id,
            to_ms=to_ms,
            partitions=partitions,
            rate_per_s=rate,
        )

    made = ask(work, url, token_file)
    Output(json).record(_row(made), f"started; `openstream replay status {made.replay_id} --follow` watches it")


@replay.command("list")
def list_replays(url: Url = None, token_file: TokenFile = None, json: Json = False) -> None:
    """Every replay, newest first."""
    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output

    async def work(client: OpenStream) -> Any:
        return await client.replays()

    Output(json).rows([_row(one) for one in ask(work, url, token_file)], COLUMNS, empty="no replay yet")


@replay.command("status")
def status(
    replay_id: Replay,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it has ended.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """How far a replay is. Exit code 1 when it failed."""
    from openstream_client import OpenStream
    from openstream_ops.asking import Stop, ask_until_stopped
    from openstream_ops.output import Output

    output = Output(json)

    async def work(client: OpenStream, stop: Stop) -> str:
        while True:
            found = await client.replay(replay_id)
            output.record(_row(found))
            if not follow or found.state in ENDED or not await stop.pause(1.0):
                return found.state

    if ask_until_stopped(work, url, token_file) == "failed":
        raise typer.Exit(1)


@replay.command("cancel")
def cancel(replay_id: Replay, url: Url = None, token_file: TokenFile = None) -> None:
    """Stop a replay; what it has copied stays."""
    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output

    async def work(client: OpenStream) -> None:
        await client.cancel_replay(replay_id)

    ask(work, url, token_file)
    Output().done(f"cancelling {replay_id}")


def _row(found: Any) -> dict[str, Any]:
    import msgspec

    from openstream_ops.quantities import since_ms

    return {**msgspec.to_builtins(found), "left": since_ms(found.eta_ms)}
