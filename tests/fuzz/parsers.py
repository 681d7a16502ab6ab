"""The parsers of envelopes and ids under a coverage-guided fuzzer: `make fuzz`. Not a test: it looks for new inputs.

The first byte of an input chooses the parser, the rest is what it gets. A parser gives a value or one of the two
errors that say no; anything else ends the run, and the input is kept in .fuzz/.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOUND = Path(".fuzz")
#: What the fuzzer begins with, one text for each parser at least.
SEEDS: Sequence[tuple[int, bytes]] = (
    (0, b"1730000000000-0"),
    (0, b"9223372036854775807-9223372036854775807"),
    (1, b"p3@1730000000000-0"),
    (2, b"orders.v1_x-y"),
    (3, b'{"event_type":"order.created","partition_key":"u","payload":{"a":[1,2.5e3,null]},"headers":{"k":"v"}}'),
    (3, b'{"event_type":"t","payload":"\\u0000\\ud800","timestamp_ms":1730000000000,"event_id":"e"}'),
    (4, b'{"events":[{"event_type":"t","payload":1}],"partitions":8,"ack":"persisted"}'),
    (5, b'{"specversion":"1.0","id":"7","source":"/a","type":"t","time":"2026-11-24T20:50:19.861Z","data":{"a":1}}'),
    (5, b'{"specversion":"1.0","id":"7","source":"/a","type":"t","partitionkey":"k","data_base64":"AAEC","ext":true}'),
    (6, b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    (7, b'{"openstream-dead-letter":"orders/0/1-1","openstream-dead-letter-group":"g"}'),
    (7, b'{"openstream-dead-letter-reason":"nacked","openstream-dead-letter-deliveries":"3"}'),
    (8, b"2026-11-24T20:50:19.861+01:00"),
)  # fmt: skip


def parsers(atheris: Any) -> list[Callable[[bytes], object]]:
    """Every parser, instrumented: so it is imported here and not above."""
    atheris.enabled_hooks.add("str")  # so that it learns what is asked of the beginnings and ends of texts, too
    with atheris.instrument_imports(include=["openstream_http", "openstream_runtime"]):
        from openstream_http.bodies import decode
        from openstream_http.cloudevents.incoming import _ONE, _of_json
        from openstream_http.cloudevents.times import ms_of
        from openstream_http.produce import new_event
        from openstream_http.schemas import Event, ProduceRequest, decoder_of
        from openstream_runtime.domain.dead_letters import letter_in
        from openstream_runtime.domain.events import StoredEvent
        from openstream_runtime.domain.history import Place
        from openstream_runtime.domain.names import check_consumer, check_topic
        from openstream_runtime.domain.positions import ZERO, Position
        from openstream_runtime.domain.tracing import parse
    one, many = decoder_of(Event), decoder_of(ProduceRequest)

    def text(data: bytes) -> str:
        return data.decode("utf-8", "surrogateescape")

    def position(data: bytes) -> None:
        found = Position.parse(text(data))
        assert Position.parse(str(found)) == found

    def place(data: bytes) -> None:
        found = Place.parse(text(data))
        assert found is None or Place.parse(str(found)) == found

    def name(data: bytes) -> None:
        check_consumer(text(data))
        check_topic(text(data))

    def event(data: bytes) -> None:
        found = new_event(decode(one, data), 0)
        json.loads(found.payload)
        assert found.payload in data, "byte for byte"

    def request(data: bytes) -> None:
        for found in decode(many, data).events:
            new_event(found, 0)

    def cloud_event(data: bytes) -> None:
        json.loads(_of_json(decode(_ONE, data), 0).payload)

    def trace(data: bytes) -> None:
        found = parse(text(data))
        assert found is None or parse(found.header) == found

    def letter(data: bytes) -> None:
        letter_in(0, StoredEvent(ZERO, "t", None, b"1", 0, data))

    def time(data: bytes) -> None:
        ms_of(text(data))

    return [position, place, name, event, request, cloud_event, trace, letter, time]


def main() -> None:
    atheris = importlib.import_module("atheris")  # has no types, and is not there but for `make fuzz`
    every = parsers(atheris)
    from openstream_http.problems import Problem
    from openstream_runtime.domain.errors import InvalidRequest

    def once(data: bytes) -> None:
        if not data:
            return
        try:
            every[data[0] % len(every)](data[1:])
        except InvalidRequest:
            return
        except Problem as problem:
            status = problem.status
        else:
            return
        assert status < 500, status

    corpus = FOUND / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, (parser, seed) in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(bytes([parser]) + seed)
    atheris.Setup([sys.argv[0], f"-artifact_prefix={FOUND}/", *sys.argv[1:], str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
