"""What a reset of a group would do: asked of the node, or worked out here when the node has no dry run."""

from __future__ import annotations

from collections.abc import Sequence

from openstream_client.client import OpenStream
from openstream_client.errors import Rejected
from openstream_client.models import Group, ResetPartition, ResetPreview
from openstream_ops.sums import stats_of


async def preview(
    client: OpenStream,
    topic: str,
    group: str,
    *,
    start_id: str | None,
    start_ms: int | None,
    partitions: Sequence[int] | None,
) -> ResetPreview:
    """`replayed` and `skipped` are None where only the node could count them."""
    try:
        return await client.preview_reset(topic, group, start_id=start_id, start_ms=start_ms, partitions=partitions)
    except Rejected as rejected:
        if "dry_run" not in rejected.detail:
            raise
    now = await client.group(topic, group)
    last = {one["partition"]: str(one["last_id"]) for one in stats_of(await client.summary(), topic)}
    start = start_id if start_ms is None else f"{start_ms}-0"
    return work_out(now, last, str(start), partitions)


def work_out(group: Group, last: dict[int, str], start: str, partitions: Sequence[int] | None) -> ResetPreview:
    """`last`: the last id of each partition as sampled. A start is the last id that counts as delivered."""
    rows = []
    for part in group.partitions:
        if partitions is not None and part.partition not in partitions:
            continue
        new = last.get(part.partition, part.last_delivered_id) if start == "$" else start
        forward, stays = _order(new) >= _order(part.last_delivered_id), new == part.last_delivered_id
        # Going to the end skips exactly the lag; anything else would have to be counted in the stream.
        skipped = part.lag if start == "$" else (None if forward and not stays else 0)
        rows.append(
            ResetPartition(part.partition, part.last_delivered_id, new, part.pending, 0 if forward else None, skipped)
        )
    return ResetPreview(group.topic, group.group, start, rows)


def _order(redis_id: str) -> tuple[int, int]:
    ms, _, seq = redis_id.partition("-")
    return int(ms or 0), int(seq or 0)
