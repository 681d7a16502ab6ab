"""Witnesses of a run that no line of ours can talk to: a trigger in PostgreSQL, and a thread that looks at Redis.

witness = Witness(servers.redis_url, servers.database_url, "orders", partitions=8)   # when the nodes are up
with witness.looking(): …
Evidence(moves=witness.moves(), looks=witness.looks)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import redis

from support.evidence import Look, Move
from support.history import Id, parse_id
from support.partitions import stream

EVERY_S = 0.05
#: A look that took longer says too little about when.
LOOK_S = 0.5
_INSTALL = """
    create schema if not exists witness;
    create table if not exists witness.moves (
        number bigint generated always as identity primary key, topic_id integer, partition integer, epoch bigint,
        owner text, writer text, before_ms bigint, before_seq bigint, after_ms bigint, after_seq bigint,
        at double precision
    );
    create or replace function witness.moved() returns trigger language plpgsql as $$
    begin
        insert into witness.moves (topic_id, partition, epoch, owner, writer, before_ms, before_seq, after_ms,
                                   after_seq, at)
        values (new.topic_id, new.partition, new.epoch, new.owner, current_setting('application_name'), old.last_ms,
                old.last_seq, new.last_ms, new.last_seq, extract(epoch from clock_timestamp()));
        return null;
    end $$;
    create or replace trigger witness_moved after update on openstream.partitions for each row
    when ((old.epoch, old.last_ms, old.last_seq) is distinct from (new.epoch, new.last_ms, new.last_seq))
    execute function witness.moved();
"""


class Witness:
    """Of one topic."""

    def __init__(self, redis_url: str, database_url: str, topic: str, partitions: int) -> None:
        self._redis_url = redis_url
        self._database_url = database_url
        self._topic = topic
        self._partitions = partitions
        self._wall = time.time() - time.monotonic()
        self.looks: list[Look] = []
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(_INSTALL)

    def moves(self) -> list[Move]:
        """Every move of a cursor so far. Rows of one partition are locked by who writes them, so they are in order."""
        query = """
            select m.partition, m.epoch, m.owner, m.writer, m.before_ms, m.before_seq, m.after_ms, m.after_seq, m.at
            from witness.moves m join openstream.topics t on t.id = m.topic_id where t.name = %s order by m.number
        """
        with psycopg.connect(self._database_url) as connection:
            rows = connection.execute(query, (self._topic,)).fetchall()
        return [
            Move(partition, epoch, owner, writer, (ms, seq), (to_ms, to_seq), at - self._wall)
            for partition, epoch, owner, writer, ms, seq, to_ms, to_seq, at in rows
        ]

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look again and again how far each stream has been trimmed."""
        ending = threading.Event()
        thread = threading.Thread(target=self._look_on, args=(ending,), name="witness")
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()

    def _look_on(self, ending: threading.Event) -> None:
        client = redis.Redis.from_url(self._redis_url, protocol=2, socket_timeout=LOOK_S, socket_connect_timeout=LOOK_S)
        with client:
            while not ending.wait(EVERY_S):
                began = time.monotonic()
                try:
                    found = self._look(client)
                except (redis.RedisError, OSError):
                    continue  # it is away or stands still: part of the play
                at = time.monotonic()
                if at - began < LOOK_S:
                    self.looks += [Look(at, partition, first) for partition, first in found]

    def _look(self, client: redis.Redis) -> list[tuple[int, Id]]:
        with client.pipeline(transaction=True) as pipe:
            for partition in range(self._partitions):
                pipe.xinfo_stream(stream(self._topic, partition))
            answers: list[Any] = pipe.execute(raise_on_error=False)
        found: list[tuple[int, Id]] = []
        for partition, info in enumerate(answers):
            if isinstance(info, Exception):
                continue  # no stream yet, or none any more
            first = info["first-entry"]
            ms, seq = parse_id((first[0] if first else info["last-generated-id"]).decode())
            found.append((partition, (ms, seq if first else seq + 1)))
        return found
