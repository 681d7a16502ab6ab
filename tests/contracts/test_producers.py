"""What makes a producer's request be kept once, in memory as on Redis: its home, and its shares in each partition."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest

from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.producers import Admission, Once, Stamp, Turn, home_of, turn_of
from openstream_runtime.domain.topics import Topic
from openstream_runtime.ports.log import AppendBatch, Appended, AppendOutcome, Refusal, Refused
from openstream_runtime.ports.producers import Finished, Kept
from support.log_harness import PLENTY, Log, append_one, appended, at, cursor, event, events, new_topic, verified

pytestmark = pytest.mark.anyio
STALE, CONTENT, FORGOTTEN = Refused(Refusal.STALE_EPOCH), Refused(Refusal.CONTENT), Refused(Refusal.FORGOTTEN)


def a_producer() -> str:
    return f"p-{secrets.token_hex(4)}"


def turn(producer: str, seq: int = 0, count: int = 3, *, epoch: int = 0, text: str = "") -> Turn:
    return turn_of(Stamp(producer, epoch, seq), events(count, headers=text.encode() or None))


async def begin(log: Log, topic: Topic, one: Turn) -> Admission | Kept | Refused:
    [verdict] = await log.producers.begin([(topic, one)])
    return verdict


async def admitted(log: Log, topic: Topic, one: Turn) -> Admission:
    verdict = await begin(log, topic, one)
    assert isinstance(verdict, Admission), verdict
    return verdict


async def put(
    log: Log, topic: Topic, one: Turn, admission: Admission, *, partition: int = 0, **bounds: int
) -> AppendOutcome:
    batch = AppendBatch(
        topic,
        partition,
        events(one.count),
        bounds.get("max_stream_len", PLENTY),
        bounds.get("max_unpersisted", PLENTY),
        once=Once(one, admission),
    )
    [outcome] = await log.events.append([batch])
    return outcome


async def kept(log: Log, topic: Topic, one: Turn, *, partition: int = 0) -> list[Position]:
    """A whole request with one share."""
    outcome = await put(log, topic, one, await admitted(log, topic, one), partition=partition)
    assert isinstance(outcome, Appended), outcome
    assert not outcome.duplicates
    assert await log.producers.finish([Finished(topic, one, {partition: outcome.positions})]) == [True]
    return list(outcome.positions)


async def length(log: Log, topic: Topic, partition: int = 0) -> int:
    return (await log.events.edges(at(topic, partition))).length


# ---- the home


async def test_requests_are_admitted_one_after_the_other(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    await kept(log, topic, turn(name, 0, 3))
    assert await begin(log, topic, turn(name, 4)) == Refused(Refusal.SEQUENCE, expected=3)
    await kept(log, topic, turn(name, 3, 2))
    assert await begin(log, topic, turn(name, 4, 1)) == Refused(Refusal.SEQUENCE, expected=5)
    assert isinstance(await begin(log, topic, turn(name, 5)), Admission)


async def test_one_under_way_is_admitted_again_as_it_was_and_nothing_behind_it(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    first = await admitted(log, topic, turn(name))
    assert await admitted(log, topic, turn(name)) == first
    assert await begin(log, topic, turn(name, 3)) == Refused(Refusal.SEQUENCE, expected=0)
    assert await begin(log, topic, turn(name, text="other")) == CONTENT
    assert await begin(log, topic, turn(name, count=4)) == CONTENT


async def test_one_that_was_finished_is_told_where_its_events_stand(log: Log) -> None:
    topic, name = await verified(log, 4), a_producer()
    one = turn(name, 0, 6)
    await admitted(log, topic, one)
    shares = {0: [Position(5, 7), Position(5, 8), Position(5, 9)], 3: [Position(5, 0), Position(6, 0), Position(6, 2)]}
    assert await log.producers.finish([Finished(topic, one, shares)]) == [True]
    assert await begin(log, topic, one) == Kept(shares)
    assert await log.producers.finish([Finished(topic, one, shares)]) == [True]
    assert await begin(log, topic, replace(one, digest=b"x" * 16)) == CONTENT
    assert await begin(log, topic, turn(name, 1, 6)) == Refused(Refusal.SEQUENCE, expected=6)


async def test_the_last_64_are_known_and_what_came_before_is_behind(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    turns = [turn(name, number, 1) for number in range(70)]
    for number, one in enumerate(turns):
        await admitted(log, topic, one)
        assert await log.producers.finish([Finished(topic, one, {0: [Position(9, number)]})]) == [True]
    assert await begin(log, topic, turns[6]) == Kept({0: [Position(9, 6)]})
    assert await begin(log, topic, turns[5]) == Refused(Refusal.SEQUENCE, expected=70)


async def test_an_unknown_producer_begins_at_0_and_nowhere_else(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    assert await begin(log, topic, turn(name, 1)) == FORGOTTEN
    assert await begin(log, topic, turn(name, 1, epoch=9)) == FORGOTTEN
    assert isinstance(await begin(log, topic, turn(name, 0, epoch=9)), Admission)


async def test_a_newer_epoch_begins_anywhere_and_an_older_one_is_over(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    await kept(log, topic, turn(name, epoch=3))
    await kept(log, topic, turn(name, 40, epoch=7))
    assert await begin(log, topic, turn(name, epoch=3)) == Refused(Refusal.STALE_EPOCH, expected=7)
    assert await begin(log, topic, turn(name, 3, epoch=6)) == Refused(Refusal.STALE_EPOCH, expected=7)
    assert await begin(log, topic, turn(name, 0, epoch=7)) == Refused(Refusal.SEQUENCE, expected=43)
    assert len(await kept(log, topic, turn(name, 0, epoch=8))) == 3
    assert await length(log, topic) == 9


async def test_producers_and_topics_know_nothing_of_each_other(log: Log) -> None:
    one, two, name = await verified(log), await verified(log), a_producer()
    await kept(log, one, turn(name))
    await kept(log, two, turn(name))
    await kept(log, one, turn(a_producer()))
    assert (await length(log, one), await length(log, two)) == (6, 3)


async def test_a_home_that_is_not_verified_says_so(log: Log) -> None:
    topic, name = new_topic(), a_producer()
    assert await begin(log, topic, turn(name)) == Refused(Refusal.UNVERIFIED)
    await log.events.verify(topic, 0, cursor())
    assert isinstance(await begin(log, topic, turn(name)), Admission)


async def test_nothing_can_be_finished_that_was_not_admitted(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    assert await log.producers.finish([Finished(topic, turn(name), {0: [Position(1, 1)]})]) == [None]
    await admitted(log, topic, turn(name, epoch=1))
    assert await log.producers.finish([Finished(topic, turn(name, epoch=2), {0: [Position(1, 1)]})]) == [None]
    # What an epoch that is over has kept is kept.
    assert await log.producers.finish([Finished(topic, turn(name, epoch=0), {0: [Position(1, 1)]})]) == [True]


async def test_numbers_as_large_as_json_has_them_stay_exact(log: Log) -> None:
    topic, name, large = await verified(log), a_producer(), 2**53 - 10
    await kept(log, topic, turn(name, 0, 1))
    await kept(log, topic, turn(name, large, 3, epoch=2**53 - 1))
    expected = Refused(Refusal.SEQUENCE, expected=large + 3)
    assert await begin(log, topic, turn(name, large + 4, 1, epoch=2**53 - 1)) == expected
    assert await begin(log, topic, turn(name, large, 3, epoch=2**53 - 2)) == Refused(
        Refusal.STALE_EPOCH, expected=2**53 - 1
    )


# ---- the shares


async def test_a_share_that_comes_again_is_kept_once_and_told_its_first_places(log: Log) -> None:
    topic, name = await verified(log, 2), a_producer()
    one = turn(name)
    admission = await admitted(log, topic, one)
    first = await put(log, topic, one, admission)
    assert isinstance(first, Appended)
    for _ in range(2):
        assert await put(log, topic, one, admission) == replace(first, duplicates=frozenset({0, 1, 2}))
    assert isinstance(await put(log, topic, one, admission, partition=1), Appended)
    assert (await length(log, topic), await length(log, topic, 1)) == (3, 3)
    [stats] = await log.events.stats([at(topic)])
    assert stats.unpersisted == 3


async def test_a_share_that_slept_while_its_producer_went_on_is_not_kept(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    asleep = turn(name)
    admission = await admitted(log, topic, asleep)
    await kept(log, topic, turn(name, 0))
    await kept(log, topic, turn(name, 3))
    assert await put(log, topic, asleep, admission) == STALE
    await kept(log, topic, turn(name, 0, epoch=1))
    assert await put(log, topic, turn(name, 3), admission) == STALE
    assert await length(log, topic) == 9


async def test_other_events_under_the_same_number_are_not_kept(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    admission = await admitted(log, topic, turn(name))
    await put(log, topic, turn(name), admission)
    assert await put(log, topic, turn(name, text="other"), admission) == CONTENT
    assert await length(log, topic) == 3


async def test_a_share_is_found_again_when_there_is_no_room_for_more(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    admission = await admitted(log, topic, turn(name))
    assert await put(log, topic, turn(name), admission, max_unpersisted=0) == Refused(Refusal.UNPERSISTED)
    assert await put(log, topic, turn(name), admission, max_stream_len=0) == Refused(Refusal.LENGTH)
    first = await put(log, topic, turn(name), admission)
    again = await put(log, topic, turn(name), admission, max_unpersisted=0, max_stream_len=0)
    assert isinstance(first, Appended)
    assert isinstance(again, Appended)
    assert again.positions == first.positions


async def test_a_long_share_is_told_every_place(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    one = turn(name, 0, 2_000)
    admission = await admitted(log, topic, one)
    first = await put(log, topic, one, admission)
    assert isinstance(first, Appended)
    assert len(set(first.positions)) == 2_000
    again = await put(log, topic, one, admission)
    assert isinstance(again, Appended)
    assert (again.positions, len(again.duplicates)) == (first.positions, 2_000)


# ---- what Redis loses


async def test_after_a_loss_epochs_from_before_it_are_forgotten_and_newer_ones_go_on(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    places = await kept(log, topic, turn(name))
    asleep = await admitted(log, topic, turn(name, 3))
    # PostgreSQL has more than Redis, so Redis has lost something: of this producer, perhaps.
    await log.events.verify(topic, 0, cursor(Position(places[-1].ms + 60_000, 0)))
    assert await begin(log, topic, turn(name, 3)) == FORGOTTEN
    assert await put(log, topic, turn(name, 3), asleep) == FORGOTTEN
    assert await begin(log, topic, turn(name)) == Kept({0: places})  # what is known stays known
    fresh = turn(name, 3, epoch=1)
    assert isinstance(await put(log, topic, fresh, await admitted(log, topic, fresh)), Appended)


async def test_a_loss_in_one_partition_is_seen_there_whatever_the_home_knows(log: Log) -> None:
    topic, name = await verified(log, 2), a_producer()
    home = home_of(name, 2)
    await kept(log, topic, turn(name), partition=1 - home)
    ahead = Position((await log.events.edges(at(topic, 1 - home))).now_ms + 60_000, 0)
    await log.events.verify(topic, 1 - home, cursor(ahead))
    admission = await admitted(log, topic, turn(name, 3))
    assert await put(log, topic, turn(name, 3), admission, partition=1 - home) == FORGOTTEN
    assert isinstance(await put(log, topic, turn(name, 3), admission, partition=home), Appended)


async def test_a_partition_verified_without_a_loss_forgets_nothing(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    places = await kept(log, topic, turn(name))
    await log.events.verify(topic, 0, cursor(places[0]))
    await kept(log, topic, turn(name, 3))


async def test_a_topic_made_again_under_its_name_knows_no_producer_and_no_id(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    await kept(log, topic, turn(name))
    await appended(log, topic, [event("x", event_id="e")])
    for again in (Topic(topic.id + 1_000_000, topic.name, 1), Topic(topic.id + 2_000_000, topic.name, 1)):
        await log.events.verify(again, 0, cursor())
        assert await begin(log, again, turn(name, 3)) == FORGOTTEN
        outcome = await append_one(log, again, [event("x", event_id="e")])
        assert isinstance(outcome, Appended)
        assert not outcome.duplicates
        await kept(log, again, turn(name))
        await log.events.delete_topic(again)


# ---- events with an id of their own


async def test_an_event_whose_id_was_there_is_told_its_first_place(log: Log) -> None:
    topic = await verified(log, 2)
    some = [event("1", event_id="a"), event("2"), event("3", event_id="b", partition_key="k", headers=b'{"h":"1"}')]
    first = await appended(log, topic, some)
    outcome = await append_one(log, topic, [event("4", event_id="b"), event("5", event_id="c"), event("6")])
    assert isinstance(outcome, Appended)
    assert outcome.duplicates == {0}
    assert outcome.positions[0] == first[2]
    read = await log.events.read_after(at(topic), first[0], count=10)
    assert [one.payload for one in read] == [b'"2"', b'"3"', b'"5"', b'"6"']
    assert (read[1].partition_key, read[1].headers) == ("k", b'{"h":"1"}')
    assert [one.position for one in read] == [*first[1:], *outcome.positions[1:]]
    # Another partition is another matter.
    other = await append_one(log, topic, [event("7", event_id="b")], 1)
    assert isinstance(other, Appended)
    assert not other.duplicates
    [stats] = await log.events.stats([at(topic)])
    assert stats.unpersisted == 5


async def test_an_id_that_stands_twice_in_a_batch_is_kept_once(log: Log) -> None:
    topic = await verified(log)
    ids = ["a", "b", "a", "a", "c"]
    outcome = await append_one(log, topic, [event(str(n), event_id=one) for n, one in enumerate(ids)])
    assert isinstance(outcome, Appended)
    assert outcome.duplicates == {2, 3}
    assert outcome.positions[2] == outcome.positions[3] == outcome.positions[0]
    assert await length(log, topic) == 3


async def test_a_batch_of_known_ids_is_answered_though_there_is_no_room(log: Log) -> None:
    topic = await verified(log)
    some = [event(str(n), event_id=f"e{n}") for n in range(5)]
    first = await appended(log, topic, some)
    again = await append_one(log, topic, some, max_stream_len=1, max_unpersisted=1)
    assert again == Appended(first, duplicates=frozenset(range(5)))
    assert await append_one(log, topic, [*some, event("6")], max_stream_len=1) == Refused(Refusal.LENGTH)
    assert await length(log, topic) == 5


async def test_ids_that_look_like_ours_are_only_ids(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    await kept(log, topic, turn(name))
    for odd in (f"s{name}", f"h{name}", "=", "=a", "1-1", "é", "\x01", "x" * 200):
        outcome = await append_one(log, topic, [event("x", event_id=odd), event("y", event_id=odd)])
        assert isinstance(outcome, Appended)
        assert outcome.duplicates == {1}
    await kept(log, topic, turn(name, 3))


async def test_a_share_of_a_request_may_hold_events_that_were_there(log: Log) -> None:
    topic, name = await verified(log), a_producer()
    [there] = await appended(log, topic, [event("1", event_id="e1")])
    some = [event("0", event_id="e0"), event("1", event_id="e1"), event("2", event_id="e2")]
    one = turn_of(Stamp(name, 0, 0), some)
    batch = AppendBatch(topic, 0, some, PLENTY, PLENTY, once=Once(one, await admitted(log, topic, one)))
    [first], [again] = await log.events.append([batch]), await log.events.append([batch])
    assert isinstance(first, Appended)
    assert (first.duplicates, first.positions[1]) == ({1}, there)
    assert again == replace(first, duplicates=frozenset({0, 1, 2}))
    assert await length(log, topic) == 3
