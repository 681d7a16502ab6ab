"""Persisting: hold the answer to a produce request until PostgreSQL has its events, and say what became of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openstream_runtime.actors.receipts import Share
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError, PartlyDone, Unavailable
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import Topic

TIMEOUT = 30.0  # seconds from the append to the commit
DRAIN = 0.15  # the part of a node's grace in which all who wait are answered: within that of the front, `tree.FRONT`
RETRY_MS = 1_000


async def persisted(world: World, topic: Topic, appended: Mapping[int, Sequence[Position]]) -> dict[int, Share]:
    """What became of these events, by partition. A share that is not settled was not committed in time."""
    began = world.clock.monotonic()
    # Of events that were there before the places stand in any order, and perhaps twice.
    shares = {number: Share(topic, number, sorted(set(places)), began) for number, places in appended.items()}
    try:
        await world.receipts.wait(shares.values(), TIMEOUT)
    finally:
        world.meter.produce_persisted(world.clock.monotonic() - began)
    return shares


def is_whole(share: Share) -> bool:
    return share.held is not None and len(share.held) == len(share.positions)


def not_persisted(
    topic: Topic, order: Sequence[int], appended: Mapping[int, Sequence[Position]], shares: Mapping[int, Share]
) -> OpenStreamError:
    """The error for a request of which PostgreSQL does not have everything."""
    if all(share.held is not None and not share.held for share in shares.values()):
        return Unavailable(
            "Redis lost the events before they were persisted", backend="redis", retry_after_ms=RETRY_MS,
            topic=topic.name,
        )  # fmt: skip
    results = _results(order, appended, shares)
    if any(one["status"] == "not_stored" for one in results):
        return PartlyDone(
            "Redis lost a part of the events before they were persisted", topic=topic.name, results=results,
            reason="lost", backend="redis", retry_after_ms=RETRY_MS,
        )  # fmt: skip
    return PartlyDone(
        "every event is appended, and PostgreSQL has not confirmed all of them in time",
        topic=topic.name,
        results=results,
    )


def _results(
    order: Sequence[int], appended: Mapping[int, Sequence[Position]], shares: Mapping[int, Share]
) -> list[dict[str, object]]:
    """One entry for each event, in request order: persisted, not_stored (for good), or not_persisted (yet)."""
    positions = {number: iter(places) for number, places in appended.items()}
    results: list[dict[str, object]] = []
    for number in order:
        position, held = next(positions[number]), shares[number].held
        if held is not None and position not in held:
            results.append({"partition": number, "status": "not_stored", "reason": "lost"})
        else:
            status = "not_persisted" if held is None else "persisted"
            results.append({"partition": number, "redis_id": str(position), "status": status})
    return results
