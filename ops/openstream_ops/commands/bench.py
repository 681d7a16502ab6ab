"""`openstream bench`: how fast the running cluster is."""

from typing import Annotated, Any

import typer

from openstream_ops.options import Json, TokenFile, Url


def bench(
    events: Annotated[int, typer.Option("--events", "-n", min=1, help="How many.")] = 50_000,
    size: Annotated[int, typer.Option(min=60, help="Bytes of a payload, about.")] = 200,
    batch: Annotated[int, typer.Option(min=1, max=5000, help="Events a request.")] = 500,
    lanes: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = 4,
    partitions: Annotated[int, typer.Option("--partitions", "-p", min=1, help="Of the topic it makes.")] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="Longest time to produce.")] = 30.0,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Produce, consume, compare, and measure latency at a gentle rate, on a topic of its own that is removed.

    Exit code 1 when an event was lost, doubled or out of order.
    """
    from openstream_client import OpenStream
    from openstream_ops.asking import Stop, ask_until_stopped
    from openstream_ops.bench import Wish, run
    from openstream_ops.output import Output

    wish = Wish(events, size, batch, lanes, partitions, seconds)

    async def work(client: OpenStream, stop: Stop) -> dict[str, Any]:
        return await run(client, stop, wish)

    found = ask_until_stopped(work, url, token_file)
    Output(json).record(found, f"{found['events']:,} events of {size} B, {batch} a request, {lanes} at a time")
    if found["interrupted"]:
        raise typer.Exit(130)
    if found["lost"] or found["doubled"] or found["out_of_order"]:
        raise typer.Exit(1)
