"""Admitting: requests of producers that number their events, before their shares are appended and after.

The home is asked first and told last. Whatever is lost in between, the same request finds the home where it was: it is
admitted again, and its shares find what is kept of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from openstream_runtime.actors.verifying import verify_all
from openstream_runtime.actors.world import World
from openstream_runtime.domain.errors import OpenStreamError
from openstream_runtime.domain.positions import Position, TopicPartition
from openstream_runtime.domain.producers import Admission, Turn, home_of
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import Appended, AppendOutcome, Refusal, Refused, Unknown
from openstream_runtime.ports.producers import Finished, Kept

_log = structlog.get_logger(__name__)
_UNVERIFIED = Refused(Refusal.UNVERIFIED)


async def admit(
    world: World, requests: Sequence[tuple[Topic, Turn, Collection[int]]]
) -> list[Admission | Kept | Refused]:
    """What their homes say. Where Redis does not know a home yet it is verified first, and the partitions with shares
    as well: what a partition has lost must be seen before an epoch begins, or it would seem to be lost from that too.
    """
    turns = [(topic, turn) for topic, turn, _ in requests]
    verdicts = await world.producers.begin(turns)
    again = [index for index, verdict in enumerate(verdicts) if verdict == _UNVERIFIED]
    if again:
        unverified: dict[Topic, set[int]] = {}
        for topic, turn, shares in (requests[index] for index in again):
            home = home_of(turn.stamp.producer, topic.partitions)
            unverified.setdefault(topic, set()).update(shares, (home,))
        for topic, partitions in unverified.items():
            try:
                await verify_all(world, topic, partitions)
            except OpenStreamError as error:
                _log.warning("a producer's home cannot be asked yet", topic=topic.name, error=str(error))
        for index, verdict in zip(again, await world.producers.begin([turns[index] for index in again]), strict=True):
            verdicts[index] = verdict
    return verdicts


async def conclude(
    world: World, requests: Sequence[tuple[Topic, Turn, Mapping[int, AppendOutcome]]], *, replicas: int | None
) -> list[Mapping[int, AppendOutcome]]:
    """Tell the homes of the requests that are kept whole; what may be said to each producer."""
    whole = [
        Finished(topic, turn, shares)
        for topic, turn, outcomes in requests
        if len(shares := _shares(outcomes)) == len(outcomes)
    ]
    told = iter(await _tell(world, whole, replicas) if whole else [])
    return [
        _said(outcomes, next(told)) if len(_shares(outcomes)) == len(outcomes) else outcomes
        for _, _, outcomes in requests
    ]


async def _tell(world: World, whole: Sequence[Finished], replicas: int | None) -> Sequence[bool | None]:
    """What `Producers.finish` says, of all servers there are."""
    if replicas is None or not world.log.sharded:
        return await world.producers.finish(whole, replicas=replicas)
    told = await world.producers.finish(whole)
    places = {
        TopicPartition(one.topic.name, number)
        for one in whole
        for number in (*one.shares, home_of(one.turn.stamp.producer, one.topic.partitions))
    }
    safe = await world.log.is_replicated(sorted(places), replicas)
    return [None if one is None else one and safe for one in told]


def all_of(shares: Mapping[int, Sequence[Position]]) -> dict[int, AppendOutcome]:
    """The outcomes of a request that was finished before."""
    return {
        number: Appended(positions, duplicates=frozenset(range(len(positions)))) for number, positions in shares.items()
    }


def _shares(outcomes: Mapping[int, AppendOutcome]) -> dict[int, Sequence[Position]]:
    return {number: one.positions for number, one in outcomes.items() if isinstance(one, Appended)}


def _said(outcomes: Mapping[int, AppendOutcome], told: bool | None) -> Mapping[int, AppendOutcome]:
    if told is None:
        # All is kept, but its producer could not go on: the home would refuse the next number.
        return {number: Unknown() for number in outcomes}
    return {
        number: replace(one, replicated=told) if isinstance(one, Appended) else one for number, one in outcomes.items()
    }
