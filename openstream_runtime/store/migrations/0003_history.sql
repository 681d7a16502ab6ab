-- What reading the history needs: a key's events without a scan, how far back a partition reaches, and the view people
-- read.

-- A hash of the key, since an entry holds 2,704 bytes at most and a key may hold more; who reads compares the key itself
-- too. Events without a key are not in it. New days get it from LIKE ... INCLUDING ALL.
CREATE INDEX event_log_key ON openstream.event_log
    (topic_id, partition, hashtextextended(partition_key, 0), generation, ms, seq)
    WHERE partition_key IS NOT NULL;

-- Events below the floor may be gone from event_log, and are not shown while they are not. Whoever drops a day raises the
-- floors above it first, in an earlier transaction: readers look at the rows and then at the floor, so they never take a
-- gap for the end. A floor never goes back, never beyond the cursor, and stays 0 while nothing can be gone: until the
-- first event there ever was, at first_ms, has been outlived.
ALTER TABLE openstream.partitions
    ADD COLUMN floor_ms  bigint NOT NULL DEFAULT 0,
    ADD COLUMN floor_seq bigint NOT NULL DEFAULT 0,
    ADD COLUMN first_ms  bigint;

-- For people and reports; its columns are a promise. `payload` and `headers` are text, exactly as they were sent:
-- cast them, `payload::jsonb ->> 'order_id'`. A payload jsonb cannot hold (\u0000, numbers beyond numeric) fails such a
-- cast, never a SELECT of the text; openstream.as_jsonb(payload) gives NULL for it instead. Runs with its owner's rights:
-- openstream_reader (roles.py) sees it and nothing else.
CREATE VIEW openstream.events AS
SELECT t.name AS topic,
       e.partition,
       e.ms || '-' || e.seq AS redis_id,
       e.generation,
       e.ms,
       e.seq,
       e.idx::integer AS index,
       e.event_type,
       e.partition_key,
       convert_from(e.payload, 'UTF8') AS payload,
       convert_from(e.headers, 'UTF8') AS headers,
       e.timestamp_ms,
       e.persisted_at
FROM openstream.event_log e
JOIN openstream.topics t ON t.id = e.topic_id
JOIN openstream.partitions p ON p.topic_id = e.topic_id AND p.partition = e.partition
WHERE t.deleting_at IS NULL AND (e.ms, e.seq) >= (p.floor_ms, p.floor_seq);
