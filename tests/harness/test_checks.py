"""The checker is checked: a good history passes, and whatever is done to it is noticed, by the rule it breaks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.checks import RULES, Report, check
from support.dumps import Row
from support.evidence import Evidence, Look, Move
from support.history import (
    Ack,
    Delivered,
    Ev,
    History,
    Id,
    Outcome,
    Read,
    Seen,
    Sent,
    digest_of,
    parse_id,
    payload_of,
    recognise,
    seen,
    show_id,
)

PARTITIONS = 3
GROUPS = ("g", "h")


@dataclass
class World:
    """A history that keeps every promise, with unknown outcomes, refusals and (unless calm) a read nobody answered."""

    seed: int
    calm: bool = False
    history: History = field(default_factory=lambda: History("orders", began=0.0))
    redis: dict[int, list[Seen]] = field(default_factory=dict)
    pg: dict[int, list[Row]] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    healed: float | None = None
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._produce()
        for group in GROUPS:
            self._consume(group)
        self.redis = {partition: [row.seen for row in rows[-12:]] for partition, rows in self.pg.items()}
        self._witness()

    def _witness(self) -> None:
        """One node persists the first half of each partition, another the rest; trims follow."""
        for partition, rows in self.pg.items():
            half, before = rows[len(rows) // 2].seen.id, (0, 0)
            for number, (epoch, owner, upto) in enumerate(((1, "n1", half), (2, "n2", rows[-1].seen.id))):
                taken = Move(partition, epoch, owner, f"openstream {owner}", before, before, 300.0 + 20 * number)
                self.moves += [taken, taken._replace(after=upto, at=taken.at + 10)]
                self.looks.append(Look(taken.at + 11, partition, upto))
                before = upto
        ok = sum(1 for _ in self.history.with_outcome(Outcome.OK))
        self.counted = [ok, sum(len(rows) for rows in self.pg.values())]
        self.healed = None if self.calm else 100.0

    def _produce(self) -> None:
        self.pg = {partition: [] for partition in range(PARTITIONS)}
        late: list[tuple[int, Ev, str, bytes]] = []
        for step in range(240):
            ev = (f"p{step % 2}", step // 2)
            key = f"k{self.chance.randrange(9)}"
            payload = payload_of(ev, key, fill=step % 5)
            outcome = self.chance.choices((Outcome.OK, Outcome.UNKNOWN, Outcome.FAIL), (85, 10, 5))[0]
            sent = self.history.sent[ev] = Sent(key, digest_of(payload), float(step), outcome, step + 0.5)
            partition = sum(key.encode()) % PARTITIONS
            if outcome is Outcome.OK:
                sent.partition, sent.id = partition, self._store(partition, key, payload)
            elif outcome is Outcome.UNKNOWN and self.chance.random() < 0.6:
                if self.chance.random() < 0.5:
                    self._store(partition, key, payload)
                else:  # it hung somewhere and comes after its successors: allowed, nobody promised its order
                    late.append((step + 9, ev, key, payload))
            for one in [one for one in late if one[0] <= step]:
                late.remove(one)
                self._store(sum(one[2].encode()) % PARTITIONS, one[2], one[3])

    def _store(self, partition: int, key: str, payload: bytes) -> Id:
        rows = self.pg[partition]
        ms, seq = rows[-1].seen.id if rows else (1_000, 0)
        at = (ms, seq + 1) if self.chance.random() < 0.4 else (ms + self.chance.randrange(1, 30), 0)
        rows.append(Row(0, seen(partition, at, key, payload)))
        return at

    def _consume(self, group: str) -> None:
        now = 1_000.0
        todo = {partition: [row.seen for row in rows] for partition, rows in self.pg.items()}
        stranded: list[Delivered] = []
        turn = 0
        while any(todo.values()):
            turn += 1
            taken = []
            for rest in todo.values():
                number = self.chance.randrange(1, 7)
                taken += [Delivered(one, 1) for one in rest[:number]]
                del rest[:number]
            consumer = f"c{turn % 2}"
            if turn == 4 and not self.calm:
                # Handed out, and the answer never arrived: half comes back as if for the first time, half counted.
                self.history.saw(Read(group, consumer, now, now + 0.5, ok=False))
                stranded = [item._replace(deliveries=1 + number % 2) for number, item in enumerate(taken)]
            else:
                self._read(group, consumer, now, taken)
            now += 1.0
            if turn == 8:
                self._read(group, "c0", now, stranded)
                now += 1.0
        if turn < 8:
            self._read(group, "c0", now, stranded)

    def _read(self, group: str, consumer: str, now: float, items: list[Delivered]) -> None:
        self.history.saw(Read(group, consumer, now, now + 0.4, ok=True, items=items))
        places = [(item.seen.partition, item.seen.id) for item in items]
        self.history.acks.append(Ack(group, consumer, now + 0.5, now + 0.6, True, places, len(places)))

    # ---- for mutations

    def check(self, *, persisted: bool = True) -> Report:
        evidence = Evidence(self.moves, self.looks, (self.counted[0], self.counted[1]), self.healed, drained_s=5_000)
        return check(
            self.history, self.redis, self.pg, groups=GROUPS, calm=self.calm, persisted=persisted, idle_s=2.0,
            evidence=evidence,
        )  # fmt: skip

    def an_event(self, outcome: Outcome, *, stored: bool | None = None, in_redis: bool | None = None) -> Ev:
        held = {entry.ev for entries in self.redis.values() for entry in entries}
        every = {row.seen.ev for rows in self.pg.values() for row in rows}
        return self.chance.choice(
            [
                ev
                for ev in self.history.with_outcome(outcome)
                if (stored is None or (ev in every) is stored) and (in_redis is None or (ev in held) is in_redis)
            ]
        )

    def remove(self, ev: Ev, *, redis: bool = True, pg: bool = True) -> None:
        if redis:
            self.redis = {number: [one for one in found if one.ev != ev] for number, found in self.redis.items()}
        if pg:
            self.pg = {number: [row for row in rows if row.seen.ev != ev] for number, rows in self.pg.items()}

    def row(self, ev: Ev) -> Row:
        return next(row for rows in self.pg.values() for row in rows if row.seen.ev == ev)

    def replace(self, old: Seen, new: Seen, *, redis: bool = True, pg: bool = True) -> None:
        if redis:
            self.redis = {n: [new if one == old else one for one in found] for n, found in self.redis.items()}
        if pg:
            self.pg = {
                n: [Row(row.generation, new) if row.seen == old else row for row in rows] for n, rows in self.pg.items()
            }

    def undeliver(self, ev: Ev, group: str) -> None:
        for read in self.history.reads:
            if read.group == group:
                read.items = [item for item in read.items if item.seen.ev != ev]
        self.history.delivered[group].discard(ev)

    def two_of_a_key(self) -> tuple[Seen, Seen]:
        """Two ok events of one producer and key, in the order in which they were sent."""
        homes: dict[tuple[str, str], list[Ev]] = {}
        for ev in self.history.with_outcome(Outcome.OK):
            homes.setdefault((ev[0], self.history.sent[ev].key), []).append(ev)
        several = self.chance.choice([evs for evs in homes.values() if len(evs) > 1])
        first, second = sorted(self.chance.sample(several, 2))
        return self.row(first).seen, self.row(second).seen


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_history_that_keeps_every_promise_passes(seed: int, calm: bool) -> None:
    report = World(seed, calm=calm).check()
    assert not report.violations, report


def lose(world: World) -> None:
    world.remove(world.an_event(Outcome.OK, stored=True))


def skip_when_persisting(world: World) -> None:
    world.remove(world.an_event(Outcome.OK, in_redis=True), redis=False)


def never_deliver(world: World) -> None:
    world.undeliver(world.an_event(Outcome.OK), "h")


def never_deliver_an_unknown_one(world: World) -> None:
    world.undeliver(world.an_event(Outcome.UNKNOWN, stored=True), "g")


def forge(world: World) -> None:
    world.pg[1].append(Row(0, seen(1, (10**9, 0), "k1", payload_of(("p0", 10**6), "k1"))))


def forge_a_delivery(world: World) -> None:
    item = Delivered(seen(1, (10**9, 0), "k1", payload_of(("p0", 10**6), "k1")), 1)
    world.history.saw(Read("g", "c0", 5_000, 5_001, ok=True, items=[item]))


def rewrite_a_payload(world: World) -> None:
    old = world.row(world.an_event(Outcome.OK)).seen
    world.replace(old, old._replace(digest=digest_of(b"{}")))


def rewrite_a_payload_on_its_way_out(world: World) -> None:
    read = world.chance.choice([read for read in world.history.reads if read.items])
    first, *rest = read.items
    read.items = [first._replace(seen=first.seen._replace(digest=b"other")), *rest]


def change_a_key(world: World) -> None:
    old = world.row(world.an_event(Outcome.OK)).seen
    world.replace(old, old._replace(key="k77"))


def garble_a_payload(world: World) -> None:
    old = world.row(world.an_event(Outcome.OK)).seen
    world.replace(old, seen(old.partition, old.id, old.key, b'{"no": "event"}'))


def call_a_stored_unknown_one_failed(world: World) -> None:
    world.history.fail(world.an_event(Outcome.UNKNOWN, stored=True))


def call_an_ok_one_failed(world: World) -> None:
    world.history.fail(world.an_event(Outcome.OK))


def store_twice(world: World) -> None:
    row = world.row(world.an_event(Outcome.OK))
    rows = world.pg[row.seen.partition]
    rows.append(Row(0, row.seen._replace(id=(rows[-1].seen.id[0] + 1, 0))))


def store_twice_in_two_generations(world: World) -> None:
    row = world.row(world.an_event(Outcome.OK))
    world.pg[row.seen.partition].append(Row(1, row.seen))


def answer_another_position(world: World) -> None:
    sent = world.history.sent[world.an_event(Outcome.OK)]
    sent.id = (7, 7)


def answer_the_position_of_another(world: World) -> None:
    one, other = world.two_of_a_key()
    assert one.ev is not None
    world.history.sent[one.ev].id = other.id


def name_two_events_by_one_position(world: World) -> None:
    first, second = world.two_of_a_key()
    world.pg[first.partition].append(Row(1, second._replace(id=first.id)))


def swap_two_of_a_key(world: World) -> None:
    first, second = world.two_of_a_key()
    for old, new in ((first, second._replace(id=first.id)), (second, first._replace(id=second.id))):
        world.replace(old, new)
        assert new.ev is not None
        world.history.sent[new.ev].id = new.id


def move_a_key(world: World) -> None:
    old = world.row(world.an_event(Outcome.OK)).seen
    there = (old.partition + 1) % PARTITIONS
    world.remove(old.ev or ("", 0))
    world.pg[there].append(Row(0, old._replace(partition=there, id=(10**9, 0))))


def deliver_out_of_order_in_one_answer(world: World) -> None:
    read = next(
        read for read in world.history.reads if sum(i.deliveries == 1 and i.seen.partition == 0 for i in read.items) > 1
    )
    read.items = list(reversed(read.items))


def deliver_out_of_order_between_consumers(world: World) -> None:
    first, second, *_ = (read for read in world.history.reads if read.group == "g")
    assert first.consumer != second.consumer
    first.items, second.items = second.items, first.items


def deliver_nobody_knows_whom_first(world: World) -> None:
    read = world.history.reads[0]
    read.items = [read.items[0]._replace(deliveries=2), *read.items[1:]]


def deliver_again_after_the_ack(world: World) -> None:
    ack = next(ack for ack in world.history.acks if ack.items)
    again = next(i for r in world.history.reads for i in r.items if (i.seen.partition, i.seen.id) == ack.items[0])
    world.history.saw(
        Read(ack.group, "c9", ack.ended + 50, ack.ended + 51, ok=True, items=[again._replace(deliveries=2)])
    )


def trim_inside(world: World) -> None:
    partition = world.chance.randrange(PARTITIONS)
    del world.redis[partition][world.chance.randrange(1, len(world.redis[partition]))]


def hand_to_another_at_once(world: World) -> None:
    read = next(read for read in world.history.reads if read.group == "h" and read.items)
    first = read.items[0]._replace(deliveries=2)
    world.history.saw(Read("h", "c9", read.ended, read.ended + 0.05, ok=True, items=[first]))


def trim_what_is_not_persisted(world: World) -> None:
    partition = world.chance.randrange(PARTITIONS)
    world.looks.append(Look(305.0, partition, (10**9, 0)))


def write_with_an_old_epoch(world: World) -> None:
    world.moves.append(world.chance.choice([move for move in world.moves if move.epoch == 1]))


def write_what_another_has_taken(world: World) -> None:
    number = world.chance.randrange(len(world.moves))
    world.moves[number] = world.moves[number]._replace(writer="openstream n3")


def put_a_cursor_back(world: World) -> None:
    last = world.moves[-1]
    world.moves.append(last._replace(before=last.after, after=last.before))


def answer_nobody_after_the_fault(world: World) -> None:
    world.healed = 10_000.0


def never_work_off_what_had_piled_up(world: World) -> None:
    world.healed = 200.0
    world.moves = [move for move in world.moves if move.epoch == 1]


def count_an_append_too_much(world: World) -> None:
    world.counted[0] += 1 + sum(1 for _ in world.history.with_outcome(Outcome.UNKNOWN))


def count_an_append_too_little(world: World) -> None:
    world.counted[0] -= 1


def count_a_commit_too_much(world: World) -> None:
    world.counted[1] += 1


def count_a_commit_too_little(world: World) -> None:
    world.counted[1] -= 1


def forget_the_end_of_one(world: World) -> None:
    world.history.sent["p9", 0] = Sent("k1", b"", 0.0)


MUTATIONS: dict[Callable[[World], None], set[str]] = {
    lose: {"C1 lost", "C11 hole"},
    skip_when_persisting: {"C1 lost"},
    never_deliver: {"C2 group lost"},
    never_deliver_an_unknown_one: {"C2 group lost"},
    forge: {"C3 phantom"},
    forge_a_delivery: {"C3 phantom"},
    rewrite_a_payload: {"C3 phantom"},
    rewrite_a_payload_on_its_way_out: {"C3 phantom"},
    change_a_key: {"C3 phantom"},
    garble_a_payload: {"C3 phantom", "C1 lost", "C6 inconsistent position"},
    call_a_stored_unknown_one_failed: {"C4 failed but stored"},
    call_an_ok_one_failed: {"C4 failed but stored"},
    store_twice: {"C5 duplicate"},
    store_twice_in_two_generations: {"C5 duplicate"},
    answer_another_position: {"C6 inconsistent position"},
    answer_the_position_of_another: {"C6 inconsistent position"},
    name_two_events_by_one_position: {"C6 inconsistent position"},
    swap_two_of_a_key: {"C7 order stored"},
    move_a_key: {"C7 key moved", "C6 inconsistent position"},
    trim_inside: {"C11 hole"},
    hand_to_another_at_once: {"C9 delivered again"},
    trim_what_is_not_persisted: {"C11 trimmed early"},
    write_with_an_old_epoch: {"C12 fence"},
    write_what_another_has_taken: {"C12 fence"},
    put_a_cursor_back: {"C12 fence"},
    answer_nobody_after_the_fault: {"C13 liveness"},
    never_work_off_what_had_piled_up: {"C13 liveness"},
    count_an_append_too_much: {"C14 metrics"},
    count_an_append_too_little: {"C14 metrics"},
    count_a_commit_too_much: {"C14 metrics"},
    forget_the_end_of_one: {"unsettled"},
}
# What only a run without faults may be held to, or what an unanswered read would excuse.
CALM_MUTATIONS: dict[Callable[[World], None], set[str]] = {
    deliver_out_of_order_in_one_answer: {"C8 order delivered"},
    deliver_out_of_order_between_consumers: {"C8 order delivered"},
    deliver_nobody_knows_whom_first: {"C8 order delivered", "C9 delivered again"},
    deliver_again_after_the_ack: {"C9 delivered again", "C10 ack ignored"},
    count_a_commit_too_little: {"C14 metrics"},
}


@pytest.mark.parametrize("mutation", [*MUTATIONS, *CALM_MUTATIONS], ids=lambda mutation: mutation.__name__)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_done_to_a_good_history_is_noticed(mutation: Callable[[World], None], seed: int) -> None:
    world = World(seed, calm=mutation in CALM_MUTATIONS)
    mutation(world)
    report = world.check()
    assert (MUTATIONS | CALM_MUTATIONS)[mutation] <= report.broken, report


def test_every_rule_is_broken_by_some_mutation() -> None:
    assert set(RULES) == set().union(*MUTATIONS.values(), *CALM_MUTATIONS.values())


def test_before_postgres_has_caught_up_its_lag_is_no_loss_but_a_skipped_event_is() -> None:
    world = World(1)
    newest = world.redis[0][-1].ev
    assert newest is not None
    world.remove(newest, redis=False)
    world.counted[1] -= 1
    assert "C1 lost" in world.check(persisted=True).broken
    assert not world.check(persisted=False).violations

    world = World(1)
    middle = world.redis[0][3].ev
    assert middle is not None
    world.remove(middle, redis=False)
    assert "C1 lost" in world.check(persisted=False).broken


PAYLOADS = [payload_of(("p0", seq), "k") for seq in range(2)]


def test_an_unanswered_read_excuses_only_what_it_can_have_taken() -> None:
    def history(*, lost_read_at: float) -> Report:
        history, rows = History("orders", began=0.0), []
        for seq in range(2):
            payload = payload_of(("p0", seq), "k")
            history.sent["p0", seq] = Sent("k", digest_of(payload), 100.0, Outcome.OK, 100.5, 0, (1, seq))
            rows.append(Row(0, seen(0, (1, seq), "k", payload)))
        history.saw(Read("g", "c1", lost_read_at, lost_read_at + 1, ok=False))
        history.saw(Read("g", "c0", 102, 103, ok=True, items=[Delivered(rows[1].seen, 1)]))
        history.saw(Read("g", "c0", 104, 105, ok=True, items=[Delivered(rows[0].seen, 1)]))
        return check(history, {}, {0: rows}, groups=["g"])

    assert not history(lost_read_at=101).violations
    assert not history(lost_read_at=90).violations, "the node may notice late that its client has gone"
    assert not history(lost_read_at=103).violations, "at the moment the later one arrived, perhaps just before"
    assert history(lost_read_at=103.5).broken == {"C8 order delivered"}, "it began after the later one had arrived"
    assert history(lost_read_at=10).broken == {"C8 order delivered"}, "it was gone long before the event was sent"


def test_what_a_failover_made_redis_forget_may_come_again_as_if_new_and_nothing_else_may() -> None:
    def history(*first: int) -> History:
        history = History("orders", began=0.0)
        for seq in range(2):
            history.sent["p0", seq] = Sent("k", digest_of(PAYLOADS[seq]), 100.0, Outcome.OK, 100.5, 0, (1, seq))
        for at, seqs in ((101, first), (103, [1]), (105, [0])):
            items = [Delivered(seen(0, (1, seq), "k", PAYLOADS[seq]), 1) for seq in seqs]
            history.saw(Read("g", "c0", at, at + 1, ok=True, items=items))
        return history

    rows = [Row(0, seen(0, (1, seq), "k", PAYLOADS[seq])) for seq in range(2)]
    again, late = history(0), history()
    assert check(again, {}, {0: rows}, groups=["g"]).broken == {"C8 order delivered"}
    assert not check(again, {}, {0: rows}, groups=["g"], redis_lost_acks=True).violations
    assert check(late, {}, {0: rows}, groups=["g"], redis_lost_acks=True).broken == {"C8 order delivered"}


def test_a_report_can_be_read() -> None:
    world = World(3)
    for _ in range(30):
        lose(world)
    world.history.note("node 2 killed")
    text = str(world.check())
    assert "C1 lost: 30 times not: an event whose producer was told ok is stored" in text
    assert "… and 22 more" in text
    assert "node 2 killed" in text
    assert text.count("\n") < 60
    assert str(World(3).check()).startswith("no rule broken\n  ok=")


def test_two_hundred_thousand_events_are_checked_in_seconds() -> None:
    history, redis, pg = History("orders", began=0.0), {}, {}
    for partition in range(4):
        rows = []
        for number in range(50_000):
            ev, key = (f"p{partition}", number), f"k{partition}-{number % 50}"
            payload = payload_of(ev, key)
            history.sent[ev] = Sent(key, digest_of(payload), number, Outcome.OK, number + 0.5, partition, (number, 0))
            rows.append(Row(0, seen(partition, (number, 0), key, payload)))
        pg[partition], redis[partition] = rows, [row.seen for row in rows[-5_000:]]
        for begin in range(0, 50_000, 500):
            items = [Delivered(row.seen, 1) for row in rows[begin : begin + 500]]
            history.saw(Read("g", "c0", begin, begin + 1, ok=True, items=items))
    begun = time.process_time()
    report = check(history, redis, pg, groups=["g"], calm=True)
    assert not report.violations, report
    assert time.process_time() - begun < 60  # measured: about 3 s; quadratic would be hours


@given(st.text(alphabet="abc0-_.", min_size=1, max_size=8), st.integers(0, 10**9), st.integers(0, 50))
def test_a_payload_says_which_event_it_is(producer: str, seq: int, fill: int) -> None:
    payload = payload_of((producer, seq), f"key-{producer}", fill)
    assert recognise(payload) == ((producer, seq), f"key-{producer}")
    assert recognise(payload[:-1]) == (None, None)
    assert seen(0, (1, 0), "another key", payload).ev is None


def test_ids_are_read_and_shown_as_redis_writes_them() -> None:
    assert parse_id("1730000000000-7") == (1_730_000_000_000, 7)
    assert show_id((1_730_000_000_000, 7)) == "1730000000000-7"
