-- The events, what could not be one of them, and the view people read.

-- Payload and headers are the producer's bytes as they came. jsonb would refuse \u0000 and rewrite numbers, and one such
-- event would block its partition for ever. The checks hold them to be text, so that no row can break the view below:
-- convert_from raises for bytes that are no UTF-8, and such a row goes to quarantine.
--
-- Partitioned by `ms`, the time in the id, a day each: a unique key must contain the partition key, and by the time of
-- insertion one id could exist twice. Partitions are made by partitions.py. There is no DEFAULT partition on purpose:
-- with one, attaching a new day locks it exclusively and scans it, and a row that fell into it keeps its day from ever
-- being attached. Without one a missing day is an error, which the writer answers by making the day.
--
-- No index on partition_key or event_type: an index entry holds 2,704 bytes at most, so a key longer than that would
-- be refused. Whoever adds one indexes a hash.
CREATE TABLE openstream.event_log (
    topic_id      integer NOT NULL,
    partition     integer NOT NULL,
    generation    integer NOT NULL,
    idx           integer NOT NULL,
    ms            bigint  NOT NULL,
    seq           bigint  NOT NULL,
    timestamp_ms  bigint  NOT NULL,
    persisted_at  timestamptz NOT NULL DEFAULT now(),
    event_type    text    NOT NULL,
    partition_key text,
    payload       bytea   NOT NULL CHECK (convert_from(payload, 'UTF8') IS NOT NULL),
    headers       bytea   CHECK (headers IS NULL OR convert_from(headers, 'UTF8') IS NOT NULL),
    PRIMARY KEY (topic_id, partition, generation, ms, seq, idx)
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

-- For people and reports; its columns are a promise. `payload` and `headers` are text, exactly as they were sent:
-- cast them, `payload::jsonb ->> 'order_id'`. A payload jsonb cannot hold (\u0000, numbers beyond numeric) fails such a
-- cast, never a SELECT of the text; openstream.as_jsonb(payload) gives NULL for it instead.
CREATE VIEW openstream.events AS
SELECT t.name AS topic,
       e.partition,
       e.ms || '-' || e.seq AS redis_id,
       e.generation,
       e.ms,
       e.seq,
       e.idx AS index,
       e.event_type,
       e.partition_key,
       convert_from(e.payload, 'UTF8') AS payload,
       convert_from(e.headers, 'UTF8') AS headers,
       e.timestamp_ms,
       e.persisted_at
FROM openstream.event_log e
JOIN openstream.topics t ON t.id = e.topic_id
WHERE t.deleting_at IS NULL;

CREATE FUNCTION openstream.as_jsonb(document text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN document::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;
