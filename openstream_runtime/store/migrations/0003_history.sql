-- What reading the history needs: a key's events without a scan, and how far back a partition reaches.

-- A hash of the key, since an entry holds 2,704 bytes at most and a key may hold more; who reads compares the key itself
-- too. Events without a key are not in it. New days get it from LIKE ... INCLUDING ALL.
CREATE INDEX event_log_key ON openstream.event_log
    (topic_id, partition, hashtextextended(partition_key, 0), generation, ms, seq)
    WHERE partition_key IS NOT NULL;

-- Events below the floor may be gone from event_log. Whoever drops a day raises the floors above it first, in an earlier
-- transaction: readers look at the rows and then at the floor, so they never take a gap for the end.
ALTER TABLE openstream.partitions
    ADD COLUMN floor_ms  bigint NOT NULL DEFAULT 0,
    ADD COLUMN floor_seq bigint NOT NULL DEFAULT 0;
