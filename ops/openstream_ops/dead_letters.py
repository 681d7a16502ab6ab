"""Dead letters for a person or a program, and sending many of them back, request after request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openstream_client.client import OpenStream
from openstream_client.models import DeadLetters, Redriven
from openstream_ops.asking import Stop
from openstream_ops.quantities import since_ms

#: The node takes so many ids a request.
IDS = 1_000


def rows_of(page: DeadLetters, shown_chars: int, for_person: bool) -> list[dict[str, Any]]:
    """The letters as they came; for a person with columns that say it shorter."""
    rows = []
    for letter in page.dead_letters:
        row: dict[str, Any] = {name: getattr(letter, name) for name in letter.__struct_fields__}
        row["payload"] = row.pop("raw_payload")
        if for_person:
            payload = bytes(letter.raw_payload).decode()
            row["shown"] = payload if len(payload) <= shown_chars else f"{payload[:shown_chars]}…"
            row["ago"] = since_ms(max(0.0, time.time() * 1000 - letter.died_ms))
        rows.append(row)
    return rows


@dataclass
class Redrive:
    """What has been sent back so far."""

    topic: str
    group: str
    to: str
    redriven: int = 0
    already: int = 0
    unknown: list[str] = field(default_factory=list)
    interrupted: bool = False

    async def run(
        self, client: OpenStream, stop: Stop, letters: Sequence[str] | None, on_progress: Callable[[], None]
    ) -> None:
        """`letters`, or all of them."""
        parts: list[list[str] | None] = [None]
        if letters is not None:
            parts = [list(letters[start : start + IDS]) for start in range(0, len(letters), IDS)]
        for ids in parts:
            next_id: str | None = None
            while True:
                if stop.requested:
                    self.interrupted = True
                    return
                done = await client.redrive(self.topic, self.group, to=self.to, ids=ids, from_id=next_id)
                self._count(done)
                on_progress()
                next_id = done.next_id
                if next_id is None:
                    break

    def _count(self, done: Redriven) -> None:
        self.redriven += done.redriven
        self.already += done.already
        self.unknown += done.unknown

    def record(self) -> dict[str, Any]:
        names = ("topic", "group", "to", "redriven", "already", "unknown")
        return {name: getattr(self, name) for name in names}
