-- The events, and what could not be one of them.

-- Payload and headers are the producer's bytes as they came. jsonb would refuse \u0000 and rewrite numbers, and one such
-- event would block its partition for ever. The checks hold them to be text, so that no row can break the view below:
-- convert_from raises for bytes that are no UTF-8, and such a row goes to quarantine.
--
-- Partitioned by `ms`, the time in the id, a day each: a unique key must contain the partition key, and by the time of
-- insertion one id could exist twice. Each day is partitioned once more by `keep`, how many days the history of the topic
-- was when the row was written (0: for ever): what ends together lies together, and goes by dropping a table. Days are
-- the outer level, so that a page reads day after day and stops, and so that dropping a part of an old day locks that day
-- alone, where nobody writes. Both levels are made by partitions.py. There is no DEFAULT partition on purpose: with one,
-- attaching a new day locks it exclusively and scans it, and a row that fell into it keeps its day from ever being
-- attached. Without one a missing day is an error, which the writer answers by making the day.
--
-- `keep` stands in the key because it must, and last, so that order and look-ups do not know of it. An id could stand in
-- two classes; the fence lets nobody write one twice, and the search for collisions looks into all of them.
--
-- No index on event_type: an index entry holds 2,704 bytes at most, so a longer one would be refused. Whoever adds one
-- indexes a hash, as 0003 does for the key.
CREATE TABLE openstream.event_log (
    topic_id      integer  NOT NULL,
    partition     integer  NOT NULL,
    generation    integer  NOT NULL,
    idx           smallint NOT NULL,
    keep          smallint NOT NULL,
    ms            bigint   NOT NULL,
    seq           bigint   NOT NULL,
    timestamp_ms  bigint   NOT NULL,
    persisted_at  timestamptz NOT NULL DEFAULT now(),
    event_type    text     NOT NULL,
    partition_key text,
    payload       bytea    NOT NULL CHECK (convert_from(payload, 'UTF8') IS NOT NULL),
    headers       bytea    CHECK (headers IS NULL OR convert_from(headers, 'UTF8') IS NOT NULL),
    PRIMARY KEY (topic_id, partition, generation, ms, seq, idx, keep)
) PARTITION BY RANGE (ms);

-- Rows the table above refuses, and rows whose id is taken by another event. Everything as bytes, so nothing is refused.
CREATE TABLE openstream.quarantine (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic_id       integer NOT NULL,
    partition      integer NOT NULL,
    generation     integer NOT NULL,
    ms             bigint  NOT NULL,
    seq            bigint  NOT NULL,
    idx            integer NOT NULL,
    event_type     bytea   NOT NULL,
    partition_key  bytea,
    payload        bytea   NOT NULL,
    headers        bytea,
    timestamp_ms   numeric NOT NULL,
    reason         text    NOT NULL CHECK (reason IN ('refused', 'collision')),
    error          text    NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX quarantine_position ON openstream.quarantine (topic_id, partition, generation, ms, seq);

CREATE FUNCTION openstream.as_jsonb(document text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN document::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;
