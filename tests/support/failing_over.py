"""What tests of a failing Redis share: the load, its patience, and when events were taken again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from support.history import History
from support.load import Plan

CLAIM_IDLE_MS = 2_000
ENVIRONMENT = {"OPENSTREAM_LOG_LEVEL": "info", "OPENSTREAM_CLAIM_IDLE_MS": str(CLAIM_IDLE_MS)}
#: What a failover may take beyond the time after which a primary counts as dead: for `appended`, and where the
#: replicas have to find the new primary as well, and write to their disks once a second.
FAILOVER_S = {"appended": 3.0, "replicated": 6.0, "persisted": 4.5}
#: A producer of replicated events is answered about once a second.
EVENTS = {"appended": 30_000, "replicated": 8_000, "persisted": 30_000}


@dataclass(frozen=True, slots=True)
class On:
    """What a cluster of nodes stands on, and what the checker looks into."""

    redis_url: str
    database_url: str


def load(name: str, ack: str, deadline_s: float = 120.0) -> tuple[History, Plan]:
    idle_s = CLAIM_IDLE_MS / 1000
    plan = Plan(
        events=EVENTS[ack], rate=3_000, ack=ack, deadline_s=deadline_s, claim_every_s=1.0,
        claim_idle_ms=CLAIM_IDLE_MS, quiet_s=2 * idle_s,
    )  # fmt: skip
    return History(f"{name}-{ack}"), plan


def back_after(history: History, died: float, partitions: Collection[int] | None = None) -> float:
    """Seconds from the death of a primary to the first event that was sent afterwards and acknowledged, on these."""
    answered = [
        one.answered
        for one in history.sent.values()
        if one.id is not None and one.invoked > died and (partitions is None or one.partition in partitions)
    ]
    return min(at for at in answered if at is not None) - died
