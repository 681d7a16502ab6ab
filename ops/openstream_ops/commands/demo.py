"""`openstream demo`: a shop that makes every chart move."""

from typing import Annotated, Any

import typer

from openstream_ops.options import TokenFile, Url


def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60.0,
    rate: Annotated[float, typer.Option(min=10, max=20_000, help="Orders a second, about.")] = 200.0,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Produce orders to `demo.orders`; one group keeps up with them, one falls behind. Ctrl-C ends it cleanly."""
    import sys

    from openstream_client import OpenStream
    from openstream_ops.asking import Stop, ask_until_stopped
    from openstream_ops.demo import FAST, SLOW, TOPIC, Counts, Demo

    def tell(now: Counts) -> None:
        failed = f", {now.failed:,} failed" if now.failed else ""
        end = "\r" if sys.stderr.isatty() else "\n"
        sys.stderr.write(
            f"{now.produced:,} orders, {FAST} has done {now.billed:,}, {SLOW} {now.packed:,}"
            f" ({now.produced - now.packed:,} to go){failed}   {end}"
        )
        sys.stderr.flush()

    async def work(client: OpenStream, stop: Stop) -> Any:
        running = Demo(client, rate=rate, seconds=seconds)
        sys.stderr.write(f"orders to {TOPIC} at {client.url} for {seconds:.0f} s; Ctrl-C ends it\n")
        await running.run(stop, tell)
        return running.counts

    counts = ask_until_stopped(work, url, token_file)
    sys.stderr.write("\n" if sys.stderr.isatty() else "")
    tell(counts)
    sys.stderr.write("\n" if sys.stderr.isatty() else "")
    sys.stderr.write(f"`openstream topic delete {TOPIC}` removes it\n")
