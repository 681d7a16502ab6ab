"""Checks a recorded history against what was stored: which promise was broken, how often, and examples of it.

The rules are those a log's users rely on; the names C1 to C14 are the project's own list of them. An event is ok
(answered with a position), failed (told that it was not kept), or unknown (it may be there, once, and without a promise
about its order). What clients cannot see, C12 to C14, needs evidence of other witnesses (`support.evidence`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from support.dumps import PgDump, RedisDump
from support.evidence import Evidence, recovery_of
from support.history import Delivered, Ev, History, Id, Outcome, Read, Seen, Sent, show_id

EXAMPLES = 8
RULES = {
    "C1 lost": "an event whose producer was told ok is stored",
    "C2 group lost": "every stored event reached every group that was there from the beginning",
    "C3 phantom": "whatever is stored or delivered was sent, with exactly these bytes and this key",
    "C4 failed but stored": "an event whose producer was told that it was not kept is nowhere",
    "C5 duplicate": "an event stands at one position only",
    "C6 inconsistent position": "a position names one event, the same in answers, Redis, PostgreSQL and deliveries",
    "C7 order stored": "of one producer and key, positions follow the order in which events were sent",
    "C7 key moved": "all events of a key stand in one partition",
    "C8 order delivered": "first-hand deliveries of a group ascend inside each partition",
    "C9 delivered again": "each event is delivered once, and again only when somebody had held it for too long",
    "C10 ack ignored": "an acknowledged event is not delivered to its group again",
    "C11 hole": "Redis holds an unbroken end of each partition, and PostgreSQL all that Redis no longer has",
    "C11 trimmed early": "whatever went from Redis was in PostgreSQL before it went",
    "C12 fence": "who took a partition last is the only one to write it, and its cursor never goes back",
    "C13 liveness": "after a fault all goes on by itself, and what had piled up is worked off",
    "C14 metrics": "what the nodes counted is what happened",
    "unsettled": "the run came to its end: nothing is left that was never tried to the end",
}


@dataclass(slots=True)
class Violation:
    """One broken rule."""

    rule: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = f"\n      … and {self.count - len(self.examples)} more" if self.count > len(self.examples) else ""
        lines = "".join(f"\n      {example}" for example in self.examples)
        return f"  {self.rule}: {self.count} times not: {RULES[self.rule]}{lines}{more}"


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a check."""

    violations: Sequence[Violation]
    figures: dict[str, int]
    notes: Sequence[str]

    @property
    def broken(self) -> set[str]:
        return {violation.rule for violation in self.violations}

    def __str__(self) -> str:
        figures = "  ".join(f"{name}={number}" for name, number in self.figures.items())
        head = f"{len(self.violations)} rules broken" if self.violations else "no rule broken"
        parts = [f"{head}\n  {figures}", *map(str, self.violations)]
        if self.notes:
            parts.append("  notes:\n" + "\n".join(f"      {note}" for note in self.notes[-40:]))
        return "\n".join(parts)


def check(
    history: History,
    redis_dump: RedisDump,
    pg_dump: PgDump,
    *,
    groups: Sequence[str] = (),
    persisted: bool = True,
    calm: bool = False,
    redis_lost_acks: bool = False,
    orphan_s: float = 30.0,
    idle_s: float | None = None,
    evidence: Evidence | None = None,
) -> Report:
    """Hold the history against both dumps, which were taken after the load had ended and everything had come to rest.

    `groups`: those that were there before the first event, at `0-0`, and were drained. `persisted`: PostgreSQL has
    caught up, so it must hold everything. `calm`: no fault happened, so C9 holds. `redis_lost_acks`: a failover of
    Redis may have forgotten acknowledgements and deliveries, so C10 does not hold and what comes once more may come
    as if for the first time. `orphan_s`: how long after its client has gone a read may still have taken events (they
    come back to the group, later than their successors). `idle_s`: how long somebody may hold what was given to him
    before it is given to others; None: no such bound. `evidence`: what others saw.
    """
    run = _Run(history, redis_dump, pg_dump)
    run.lost(persisted=persisted)
    run.phantoms()
    run.failed_but_stored()
    run.duplicates()
    run.positions()
    run.order_stored()
    run.keys_moved()
    run.holes()
    for group in groups:
        run.group_lost(group)
        run.order_delivered(group, orphan_s, forgetful=redis_lost_acks)
        if calm:
            run.delivered_again(group)
        if not redis_lost_acks:
            run.acks_ignored(group)
            if idle_s is not None:
                run.taken_away(group, idle_s)
    run.unsettled()
    if evidence is not None:
        run.trimmed_early(evidence)
        run.fenced(evidence)
        run.recovered(evidence, groups)
        run.counted(evidence, calm=calm)
    found = [violation for violation in run.found.values() if violation.count]
    notes = [f"{at - history.began:8.2f} s  {text}" for at, text in history.notes]
    return Report(found, run.figures(groups), notes)


class _Run:
    def __init__(self, history: History, redis_dump: RedisDump, pg_dump: PgDump) -> None:
        self.history = history
        self.sent = history.sent
        self.redis = redis_dump
        self.pg = pg_dump
        self.found = {rule: Violation(rule) for rule in RULES}
        # Redis and PostgreSQL as one log for each partition: position → copies, in order.
        self.log: dict[int, dict[Id, list[Seen]]] = {}
        for partition in sorted({*redis_dump, *pg_dump}):
            copies: dict[Id, list[Seen]] = defaultdict(list)
            for row in pg_dump.get(partition, ()):
                copies[row.seen.id].append(row.seen)
            for entry in redis_dump.get(partition, ()):
                copies[entry.id].append(entry)
            self.log[partition] = dict(sorted(copies.items()))
        self.stored: dict[Ev, set[tuple[int, Id]]] = defaultdict(set)
        for copy in self._copies():
            if copy.ev is not None:
                self.stored[copy.ev].add((copy.partition, copy.id))

    def _copies(self) -> Iterable[Seen]:
        return (copy for copies in self.log.values() for at in copies.values() for copy in at)

    def _add(self, rule: str, text: str) -> None:
        violation = self.found[rule]
        violation.count += 1
        if len(violation.examples) < EXAMPLES:
            violation.examples.append(text)

    # ------------------------------------------------------------------------------------------------- stored

    def lost(self, *, persisted: bool) -> None:
        in_pg = {row.seen.ev for rows in self.pg.values() for row in rows}
        highest = {partition: rows[-1].seen.id for partition, rows in self.pg.items() if rows}
        for ev, sent in self.sent.items():
            if sent.outcome is Outcome.OK and ev not in self.stored:
                self._add("C1 lost", f"{_show(ev, sent)} is neither in Redis nor in PostgreSQL")
            elif ev in self.stored and ev not in in_pg:
                at = min(self.stored[ev])
                if persisted:
                    self._add("C1 lost", f"{_show(ev, sent)} is in Redis and never came to PostgreSQL")
                elif at[1] < highest.get(at[0], (0, 0)):
                    self._add("C1 lost", f"{_show(ev, sent)} was skipped: PostgreSQL is past it, without it")

    def failed_but_stored(self) -> None:
        for ev in self.history.with_outcome(Outcome.FAIL):
            if ev in self.stored:
                self._add("C4 failed but stored", f"{_show(ev, self.sent[ev])} stands at {_places(self.stored[ev])}")

    def phantoms(self) -> None:
        for copy in self._copies():
            self._phantom(copy, "stored")
        for read in self.history.reads:
            for item in read.items:
                self._phantom(item.seen, f"delivered to {read.group}/{read.consumer}")

    def _phantom(self, copy: Seen, where: str) -> None:
        if copy.ev is None or copy.ev not in self.sent:
            self._add("C3 phantom", f"at {copy.partition}/{show_id(copy.id)}, {where}: nobody sent {copy.ev}")
        elif (copy.digest, copy.key) != (self.sent[copy.ev].digest, self.sent[copy.ev].key):
            self._add("C3 phantom", f"{copy.ev} at {copy.partition}/{show_id(copy.id)}, {where}: not the bytes sent")

    def duplicates(self) -> None:
        for ev, places in self.stored.items():
            if len(places) > 1:
                self._add("C5 duplicate", f"{ev} stands at {_places(places)}")
        for partition, copies in self.log.items():
            for at in copies.values():
                if len(at) > 2:  # one in each store is the rule
                    self._add("C5 duplicate", f"{at[0].ev} at {partition}/{show_id(at[0].id)} has {len(at)} copies")
        for partition, rows in self.pg.items():
            twice = Counter(row.seen.id for row in rows)
            for at_id, number in twice.items():
                if number > 1:
                    self._add("C5 duplicate", f"PostgreSQL has {number} rows at {partition}/{show_id(at_id)}")

    def positions(self) -> None:
        names: dict[tuple[int, Id], dict[Ev | None, str]] = defaultdict(dict)
        for ev, sent in self.sent.items():
            if sent.partition is not None and sent.id is not None:
                names[sent.partition, sent.id][ev] = "its answer"
        for copy in self._copies():
            names[copy.partition, copy.id].setdefault(copy.ev, "a store")
        for read in self.history.reads:
            for item in read.items:
                names[item.seen.partition, item.seen.id].setdefault(item.seen.ev, f"a read of {read.group}")
        for (partition, at), claims in names.items():
            if len(claims) > 1:
                told = ", ".join(f"{ev} by {who}" for ev, who in claims.items())
                self._add("C6 inconsistent position", f"{partition}/{show_id(at)} is {told}")
        for ev, sent in self.sent.items():
            told_at = (sent.partition, sent.id)
            if sent.outcome is Outcome.OK and ev in self.stored and told_at not in self.stored[ev]:
                self._add("C6 inconsistent position", f"{_show(ev, sent)} stands at {_places(self.stored[ev])}")

    def order_stored(self) -> None:
        for partition, copies in self.log.items():
            highest: dict[tuple[str, str], int] = {}
            for at, found in copies.items():
                for ev in {copy.ev for copy in found}:
                    if ev is None or (sent := self.sent.get(ev)) is None:
                        continue
                    producer, seq = ev
                    before = highest.get((producer, sent.key), -1)
                    # An event of unknown outcome may come late. One that was answered stood before the next was sent.
                    if seq < before and sent.outcome is Outcome.OK:
                        here = f"{producer}:{seq} at {partition}/{show_id(at)}"
                        self._add("C7 order stored", f"key {sent.key}: {here} is behind {producer}:{before}")
                    highest[producer, sent.key] = max(before, seq)

    def keys_moved(self) -> None:
        homes: dict[str, set[int]] = defaultdict(set)
        for copy in self._copies():
            if copy.key is not None:
                homes[copy.key].add(copy.partition)
        for key, partitions in homes.items():
            if len(partitions) > 1:
                self._add("C7 key moved", f"key {key} is in partitions {sorted(partitions)}")

    def holes(self) -> None:
        for partition, entries in self.redis.items():
            if not entries:
                continue
            kept = {entry.id for entry in entries}
            for row in self.pg.get(partition, ()):
                if row.seen.id > entries[0].id and row.seen.id not in kept:
                    self._add(
                        "C11 hole", f"{partition}/{show_id(row.seen.id)} is in PostgreSQL and missing inside Redis"
                    )
        in_pg = {(partition, row.seen.id) for partition, rows in self.pg.items() for row in rows}
        in_redis = {(partition, entry.id) for partition, entries in self.redis.items() for entry in entries}
        for ev, sent in self.sent.items():
            place = (sent.partition, sent.id)
            if sent.outcome is Outcome.OK and place not in in_redis and place not in in_pg:
                self._add("C11 hole", f"{_show(ev, sent)} was trimmed from Redis and PostgreSQL does not have it there")

    # ------------------------------------------------------------------------------------------------ delivered

    def group_lost(self, group: str) -> None:
        delivered = self.history.delivered_to(group)
        for ev, sent in self.sent.items():
            if ev not in delivered and (ev in self.stored or sent.outcome is Outcome.OK):
                self._add("C2 group lost", f"{_show(ev, sent)} never reached {group}")

    def order_delivered(self, group: str, orphan_s: float, *, forgetful: bool = False) -> None:
        """First-hand deliveries ascend in each partition: inside an answer, and from a read to any that began after it.

        Redis' last-delivered id only grows, so a lower id that comes first-hand after a higher one had been handed out
        before, to a read whose answer never arrived. Such a read must be in the history: unanswered, begun when the
        higher id had not arrived yet, and not long gone when the event was sent. `forgetful`: Redis was taken back to
        where it was earlier, so what had arrived may come again as if for the first time.
        """
        had: set[tuple[int, Id]] = set()
        reads = [read for read in self.history.reads if read.group == group]
        unanswered = [read for read in reads if not read.ok]
        by_end = iter(sorted(reads, key=lambda read: read.ended))
        earlier = next(by_end, None)
        highest: dict[int, tuple[Id, float]] = {}  # of all reads that had ended, with the time it arrived
        lowest_count: dict[tuple[int, Id], int] = {}
        for read in sorted(reads, key=lambda read: read.invoked):
            while earlier is not None and earlier.ended < read.invoked:
                had.update((item.seen.partition, item.seen.id) for item in earlier.items)
                for item in _first_hand(earlier):
                    known = highest.get(item.seen.partition)
                    if known is None or item.seen.id > known[0]:
                        highest[item.seen.partition] = (item.seen.id, earlier.ended)
                earlier = next(by_end, None)
            inside: dict[int, Id] = {}
            for item in _first_hand(read):
                partition, at = item.seen.partition, item.seen.id
                if forgetful and (partition, at) in had:
                    continue
                before, arrived = max(
                    highest.get(partition, ((-1, -1), 0.0)), (inside.get(partition, (-1, -1)), read.ended)
                )
                if at <= before and not self._excused(item, arrived, unanswered, orphan_s):
                    who = f"{group}/{read.consumer}"
                    self._add("C8 order delivered", f"{_item(item)} came to {who} first-hand after {show_id(before)}")
                inside[partition] = max(at, inside.get(partition, at))
            for item in read.items:
                place = (item.seen.partition, item.seen.id)
                lowest_count[place] = min(item.deliveries, lowest_count.get(place, item.deliveries))
        for (partition, at), count in lowest_count.items():
            if count > 1 and not unanswered:
                told = f"came to {group} with deliveries={count}, and every read before was answered without it"
                self._add("C8 order delivered", f"{partition}/{show_id(at)} {told}")

    def _excused(self, item: Delivered, higher_arrived: float, unanswered: Sequence[Read], orphan_s: float) -> bool:
        sent = self.sent.get(item.seen.ev) if item.seen.ev is not None else None
        invoked = self.history.began if sent is None else sent.invoked
        # On virtual time the two can be one moment, in either order.
        return any(lost.invoked <= higher_arrived and lost.ended + orphan_s > invoked for lost in unanswered)

    def delivered_again(self, group: str) -> None:
        times: Counter[tuple[int, Id]] = Counter()
        for read in self.history.reads:
            if read.group != group:
                continue
            for item in read.items:
                times[item.seen.partition, item.seen.id] += 1
                if item.deliveries != 1:
                    self._add("C9 delivered again", f"{_item(item)} came to {group} with deliveries={item.deliveries}")
        for (partition, at), number in times.items():
            if number > 1:
                self._add("C9 delivered again", f"{partition}/{show_id(at)} came to {group} {number} times")
        for ack in self.history.acks:
            if ack.group == group and ack.ok and ack.acked != len(ack.items):
                self._add("C9 delivered again", f"{group}/{ack.consumer} acked {len(ack.items)}, {ack.acked} counted")

    def taken_away(self, group: str, idle_s: float) -> None:
        """Who got an event holds it for that long. From the moment he asked, that is: he may have got it at once."""
        held: dict[tuple[int, Id], tuple[float, str]] = {}
        for read in sorted((read for read in self.history.reads if read.group == group), key=lambda read: read.ended):
            for item in read.items:
                place = (item.seen.partition, item.seen.id)
                since, who = held.get(place, (-idle_s, ""))
                if (after := read.ended - since) < idle_s:
                    told = f"came to {group}/{read.consumer} {after:.3f} s after {who} had asked for it"
                    self._add("C9 delivered again", f"{_item(item)} {told}")
                held[place] = (read.invoked, read.consumer)

    def acks_ignored(self, group: str) -> None:
        acked: dict[tuple[int, Id], float] = {}
        for ack in self.history.acks:
            if ack.group == group and ack.ok and (ack.acked is None or ack.acked == len(ack.items)):
                for place in ack.items:
                    acked[place] = min(acked.get(place, ack.ended), ack.ended)
        for read in self.history.reads:
            if read.group != group:
                continue
            for item in read.items:
                since = acked.get((item.seen.partition, item.seen.id))
                if since is not None and read.invoked > since:
                    late = f"{read.invoked - since:.3f} s after its acknowledgement"
                    self._add("C10 ack ignored", f"{_item(item)} was read by {group}/{read.consumer} {late}")

    # -------------------------------------------------------------------------------- what other witnesses have seen

    def trimmed_early(self, evidence: Evidence) -> None:
        known = {partition: set(copies) for partition, copies in self.log.items()}
        for ev in self.history.with_outcome(Outcome.OK):
            sent = self.sent[ev]
            if sent.partition is not None and sent.id is not None:
                known.setdefault(sent.partition, set()).add(sent.id)  # wherever it is now
        in_order = {partition: sorted(ids) for partition, ids in known.items()}
        for look in evidence.looks:
            ids = in_order.get(look.partition, [])
            gone = bisect_left(ids, look.first)
            persisted = evidence.persisted_at(look.partition, look.at)
            if gone and ids[gone - 1] > persisted:
                when = f"{look.at - self.history.began:.2f} s"
                told = f"{show_id(ids[gone - 1])} was gone and PostgreSQL stood at {show_id(persisted)}"
                self._add("C11 trimmed early", f"after {when}: {look.partition}/{told}")

    def fenced(self, evidence: Evidence) -> None:
        epochs: dict[int, int] = {}
        for move in evidence.moves:
            where = f"{move.partition}/{show_id(move.after)} after {move.at - self.history.began:.2f} s"
            if move.epoch < epochs.get(move.partition, 0):
                self._add("C12 fence", f"epoch {move.epoch} wrote {where}, behind epoch {epochs[move.partition]}")
            epochs[move.partition] = max(move.epoch, epochs.get(move.partition, 0))
            if not move.is_by_owner:
                self._add("C12 fence", f"`{move.writer}` wrote {where}, which {move.owner} had taken (e{move.epoch})")
            if move.after < move.before:
                self._add("C12 fence", f"`{move.writer}` put the cursor back from {show_id(move.before)} to {where}")

    def recovered(self, evidence: Evidence, groups: Sequence[str]) -> None:
        if evidence.healed is None:
            return
        told = recovery_of(self.history, evidence, groups)
        for what, took, bound in (
            ("the first event was answered", told.first_ok_s, evidence.first_ok_s),
            ("everything from before was delivered and persisted", told.drained_s, evidence.drained_s),
        ):
            if took is None or took > bound:
                self._add("C13 liveness", f"{what} {'never' if took is None else f'after {took:.1f} s'}; {bound:.0f} s")

    def counted(self, evidence: Evidence, *, calm: bool) -> None:
        if evidence.counted is None:
            return
        appended, persisted = evidence.counted
        ok, unknown = (sum(1 for _ in self.history.with_outcome(one)) for one in (Outcome.OK, Outcome.UNKNOWN))
        rows = sum(len(found) for found in self.pg.values())
        if not ok <= appended <= ok + unknown:
            self._add("C14 metrics", f"{ok} events were answered, {unknown} are unknown; {appended} were counted")
        # A commit whose answer was lost is not counted.
        if persisted > rows or (calm and persisted != rows):
            self._add("C14 metrics", f"{rows} events are in PostgreSQL, {persisted} were counted")

    # -------------------------------------------------------------------------------------------------- the rest

    def unsettled(self) -> None:
        for ev in self.history.with_outcome(Outcome.INVOKED):
            self._add("unsettled", f"{_show(ev, self.sent[ev])} was sent and its end was not recorded")

    def figures(self, groups: Sequence[str]) -> dict[str, int]:
        outcomes = Counter(sent.outcome for sent in self.sent.values())
        unknown = [ev for ev in self.history.with_outcome(Outcome.UNKNOWN) if ev in self.stored]
        numbers = {outcome.value: outcomes[outcome] for outcome in (Outcome.OK, Outcome.FAIL, Outcome.UNKNOWN)}
        numbers |= {
            "unknown_stored": len(unknown),
            "in_redis": sum(len(entries) for entries in self.redis.values()),
            "in_postgres": sum(len(rows) for rows in self.pg.values()),
        }
        for group in groups:
            reads = [read for read in self.history.reads if read.group == group]
            items = sum(len(read.items) for read in reads)
            numbers[f"deliveries[{group}]"] = items
            numbers[f"again[{group}]"] = items - len({(i.seen.partition, i.seen.id) for r in reads for i in r.items})
            numbers[f"unanswered[{group}]"] = sum(not read.ok for read in reads)
        return numbers


def _first_hand(read: Read) -> Iterable[Delivered]:
    return () if read.is_claim else (item for item in read.items if item.deliveries == 1)


def _show(ev: Ev, sent: Sent) -> str:
    place = "" if sent.partition is None else f" at {sent.partition}/{show_id(sent.id)}"
    return f"{ev[0]}:{ev[1]} (key {sent.key}, {sent.outcome}{place})"


def _item(item: Delivered) -> str:
    return f"{item.seen.partition}/{show_id(item.seen.id)} {item.seen.ev}"


def _places(places: Iterable[tuple[int, Id]]) -> str:
    return ", ".join(f"{partition}/{show_id(at)}" for partition, at in sorted(places))
