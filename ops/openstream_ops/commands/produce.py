"""`openstream produce`: one event from the command line, or a file or pipe of them."""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from openstream_ops.options import Json, TokenFile, Topic, Url


def produce(
    topic: Topic,
    payload: Annotated[
        str | None,
        typer.Argument(help="Payload of one event, as JSON. Without it: -f, or standard input.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="NDJSON, one event a line; `-` is standard input.", show_default=False),
    ] = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="Partition key.", show_default=False)] = None,
    event_type: Annotated[
        str | None, typer.Option("--type", "-t", help="Event type. [default: cli]", show_default=False)
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="name=value; may be repeated.", show_default=False)
    ] = None,
    payloads: Annotated[bool, typer.Option("--payloads", help="Lines are payloads and not whole events.")] = False,
    partitions: Annotated[
        int | None, typer.Option("--partitions", "-p", min=1, help="Count for a topic that is new.", show_default=False)
    ] = None,
    ack: Annotated[str, typer.Option(help="appended, replicated or persisted.")] = "appended",
    rejects: Annotated[
        Path | None, typer.Option(help="File that gets the lines that were not taken.", show_default=False)
    ] = None,
    unknown: Annotated[
        str, typer.Option(help="Lines of which no node can tell any more whether they are in: stop, skip or repeat.")
    ] = "stop",
    give_up: Annotated[str, typer.Option(help="Overload for so long ends the command with exit code 5.")] = "60s",
    state: Annotated[
        Path | None,
        typer.Option(help="Where a file's progress is kept. [default: beside the file]", show_default=False),
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Produce one event, or many in the order of a file or pipe.

    A line is an event, {"event_type": …, "payload": …, "partition_key": …}, as `consume` prints it; with --payloads it
    is a payload. A file that is interrupted, killed even, goes on where it was when the same command runs again. Its
    requests are numbered and the numbers are remembered beside it, so that every line is in once.

    Only when the nodes have forgotten the numbers (after a day, or when Redis has lost its data) while an answer was
    open, nobody can tell: the command names the lines and stops. Look, then go on with --unknown skip (they are in) or
    --unknown repeat (they are not).
    """
    from openstream_ops.errors import UsageError

    if ack not in {"appended", "replicated", "persisted"}:
        raise UsageError(f"there is no ack {ack!r}", "appended, replicated or persisted")
    if unknown not in {"stop", "skip", "repeat"}:
        raise UsageError(f"{unknown!r} is no way to go on", "stop, skip or repeat")
    if payload is not None and file is not None:
        raise UsageError("a payload and --file exclude each other")
    if payload is not None:
        _one(topic, payload, key, event_type, header, partitions, ack, url, token_file, json)
        return
    if header or (not payloads and (key is not None or event_type is not None)):
        raise UsageError("lines are whole events here", "--payloads makes events of them, with --type and --key")
    from openstream_ops.quantities import duration_ms

    wish = {"ack": ack, "partitions": partitions, "give_up_after": duration_ms(give_up) / 1000}
    _many(topic, file, wish, payloads, key, event_type, rejects, unknown, state, url, token_file)


def _one(
    topic: str, payload: str, key: str | None, event_type: str | None, header: list[str] | None,
    partitions: int | None, ack: str, url: str | None, token_file: Path | None, json: bool,
) -> None:  # fmt: skip
    import time

    import msgspec

    from openstream_client import Event, OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.errors import UsageError
    from openstream_ops.output import Output, printable

    try:
        msgspec.json.decode(payload.encode(), type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise UsageError(f"the payload is not JSON: {error}", "a string needs its quotes: '\"text\"'") from error
    pairs = [one.partition("=") for one in header or ()]
    if any(not separator for _, separator, _ in pairs):
        raise UsageError("a header is name=value")
    headers = {name: value for name, _, value in pairs} or None
    event = Event(event_type or "cli", msgspec.Raw(payload.encode()), key, headers)

    async def work(client: OpenStream) -> tuple[Any, float]:
        began = time.perf_counter()
        produced = await client.produce(topic, event, partitions=partitions, ack=ack)
        return produced.results[0], time.perf_counter() - began

    placed, seconds = ask(work, url, token_file)
    output = Output(json)
    if output.is_table:
        named = f"  key={printable(key)}" if key is not None else ""
        output.say(
            f"{topic}[{placed.partition}] {placed.redis_id}{named}  {len(payload.encode())} B  {seconds * 1000:.1f} ms"
        )
    else:
        output.record({"topic": topic, **msgspec.to_builtins(placed)})


def _many(
    topic: str, path: Path | None, wish: dict[str, Any], payloads: bool, key: str | None, event_type: str | None,
    rejects: Path | None, unknown: str, state_path: Path | None, url: str | None, token_file: Path | None,
) -> None:  # fmt: skip
    import sys
    import time

    from openstream_client import OpenStream
    from openstream_ops.asking import Stop, ask_until_stopped
    from openstream_ops.errors import UsageError
    from openstream_ops.file_produce import FileProducer, Plan
    from openstream_ops.import_state import ImportState, beside
    from openstream_ops.line_file import LineFile, Readable, Reject, as_event, as_payload_of
    from openstream_ops.output import printable
    from openstream_ops.pipe import Pipe
    from openstream_ops.progress import Meter

    with contextlib.ExitStack() as stack:
        if path is None or str(path) == "-":
            if path is None and sys.stdin.isatty():
                raise UsageError("nothing to produce", "give a payload, -f FILE, or pipe lines in")
            pipe = Pipe(sys.stdin.fileno())
            file: Readable = pipe
            total, state_path = None, None
            state = ImportState.of_pipe(topic)
        else:
            try:
                opened = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise UsageError(f"cannot read {path}: {error.strerror}") from error
            file, pipe = opened, None
            state_path = state_path or beside(path, topic)
            total = path.stat().st_size
            state = ImportState.load(state_path, opened, topic)
            opened.seek(state.offset)
        if state.line:
            sys.stderr.write(f"going on after line {state.line:,}\n")
        meter = stack.enter_context(Meter(topic if path is None else path.name, total))
        rejected_to = None if rejects is None else stack.enter_context(rejects.open("ab"))
        began, sent_before = time.monotonic(), state.sent

        def on_reject(reject: Reject) -> None:
            meter.say(f"line {reject.line:,}: {printable(reject.why)}")
            if rejected_to is not None:
                rejected_to.write(reject.text + b"\n")
                rejected_to.flush()

        def on_progress(now: ImportState) -> None:
            rate = (now.sent - sent_before) / max(1e-3, time.monotonic() - began)
            more = f", {now.rejected:,} rejected" if now.rejected else ""
            meter.at(now.offset, f"{now.sent:,} events, {rate:,.0f}/s{more}")

        encode = as_payload_of(event_type or "cli", key) if payloads else as_event
        lines = LineFile(file, encode, offset=state.offset, line=state.line)
        plan = Plan(topic, state_path=state_path, unknown=unknown, **wish)

        async def work(client: OpenStream, stop: Stop) -> None:
            producer = FileProducer(client, plan, lines, state, pipe=pipe, on_reject=on_reject, on_progress=on_progress)
            await producer.run(stop)

        ask_until_stopped(work, url, token_file)
    seconds = time.monotonic() - began
    new = state.sent - sent_before
    before = f" ({state.sent:,} with the runs before)" if sent_before else ""
    sys.stderr.write(
        f"{new:,} events in {seconds:.1f} s, {new / max(seconds, 1e-3):,.0f}/s{before}; {state.rejected:,} rejected\n"
    )
    if state.rejected:
        raise typer.Exit(1)
