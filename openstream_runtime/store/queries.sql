-- Every statement of the store but the ones that name a time partition (partitions.py). `-- name: x` begins one.

-- name: lock_cursors
-- In key order, so that two writers never wait for each other in a circle.
-- The topic's history comes along: whatever a node believes, rows are written into the class that is set at this moment.
SELECT p.topic_id, p.partition, p.epoch, p.generation, p.last_ms, p.last_seq, p.closed, t.history_ms
FROM openstream.partitions p
JOIN openstream.topics t ON t.id = p.topic_id
JOIN unnest(%s::integer[], %s::integer[]) AS k (topic_id, partition) ON (k.topic_id, k.partition) = (p.topic_id, p.partition)
ORDER BY p.topic_id, p.partition
FOR NO KEY UPDATE OF p

-- name: move_cursors
UPDATE openstream.partitions p
SET last_ms = u.ms, last_seq = u.seq, n = p.n + u.n, updated_at = now(), first_ms = coalesce(p.first_ms, u.first_ms)
FROM unnest(%s::integer[], %s::integer[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
     AS u (topic_id, partition, ms, seq, n, first_ms)
WHERE p.topic_id = u.topic_id AND p.partition = u.partition

-- name: copy_events
COPY openstream.event_log (topic_id, partition, generation, idx, keep, ms, seq, timestamp_ms, event_type,
                           partition_key, payload, headers)
FROM STDIN (FORMAT BINARY)

-- name: stored_between
-- The bounds on ms alone let the planner leave out the other days.
SELECT ms, seq, event_type, partition_key, payload, headers, timestamp_ms
FROM openstream.event_log
WHERE topic_id = %(topic_id)s AND partition = %(partition)s AND generation = %(generation)s AND idx = 0
  AND ms BETWEEN %(after_ms)s AND %(upto_ms)s
  AND (ms, seq) > (%(after_ms)s, %(after_seq)s) AND (ms, seq) <= (%(upto_ms)s, %(upto_seq)s)

-- name: quarantine
INSERT INTO openstream.quarantine (topic_id, partition, generation, ms, seq, idx, event_type, partition_key, payload,
                                   headers, timestamp_ms, reason, error)
VALUES (%s, %s, %s, %s, %s, 0, %s, %s, %s, %s, %s, %s, %s)

-- name: take
UPDATE openstream.partitions
SET epoch = epoch + 1, owner = %s, updated_at = now()
WHERE topic_id = %s AND partition = %s AND NOT closed
RETURNING epoch, generation, last_ms, last_seq

-- name: cursor
SELECT epoch, generation, last_ms, last_seq
FROM openstream.partitions
WHERE topic_id = %s AND partition = %s AND NOT closed

-- name: cursors
SELECT t.name, p.partition, p.epoch, p.generation, p.last_ms, p.last_seq
FROM openstream.partitions p
JOIN openstream.topics t ON t.id = p.topic_id
WHERE NOT p.closed

-- name: holds
-- Whether each of these positions is there, and the cursor of its partition unless that is closed. Every generation the
-- partition had is looked at by its own way down the index: a condition that leaves it open would scan the partition.
-- Below the floor the topic keeps nothing, so nothing is missing there.
SELECT CASE WHEN NOT p.closed THEN p.last_ms END, CASE WHEN NOT p.closed THEN p.last_seq END,
       coalesce((a.ms, a.seq) < (p.floor_ms, p.floor_seq), false)
       OR EXISTS (SELECT FROM openstream.event_log e
                  WHERE e.topic_id = a.topic_id AND e.partition = a.partition AND e.generation = ANY (g.generations)
                    AND e.ms = a.ms AND e.seq = a.seq)
       OR EXISTS (SELECT FROM openstream.quarantine q
                  WHERE q.topic_id = a.topic_id AND q.partition = a.partition AND q.generation = ANY (g.generations)
                    AND q.ms = a.ms AND q.seq = a.seq)
FROM unnest(%s::integer[], %s::integer[], %s::bigint[], %s::bigint[])
     WITH ORDINALITY AS a (topic_id, partition, ms, seq, number)
LEFT JOIN openstream.partitions p USING (topic_id, partition)
LEFT JOIN LATERAL (SELECT array_agg(generation) AS generations FROM generate_series(0, p.generation) AS generation) g
       ON true
ORDER BY a.number

-- name: ping
SELECT 1

-- name: version
SELECT version FROM openstream.catalog_version

-- name: bump_version
UPDATE openstream.catalog_version SET version = version + 1

-- name: topics
SELECT id, name, partitions, retention_ms, retention_bytes, history_ms, max_stream_len,
       (extract(epoch FROM created_at) * 1000)::bigint, deleting_at IS NOT NULL,
       coalesce((SELECT max(floor_ms) FROM openstream.partitions WHERE topic_id = id), 0)
FROM openstream.topics
ORDER BY name

-- name: topic
SELECT id, name, partitions, retention_ms, retention_bytes, history_ms, max_stream_len,
       (extract(epoch FROM created_at) * 1000)::bigint, deleting_at IS NOT NULL,
       coalesce((SELECT max(floor_ms) FROM openstream.partitions WHERE topic_id = id), 0)
FROM openstream.topics
WHERE name = %s

-- name: create_topic
INSERT INTO openstream.topics (name, partitions, retention_ms, retention_bytes, history_ms, max_stream_len)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (name) DO NOTHING
RETURNING id

-- name: create_partitions
INSERT INTO openstream.partitions (topic_id, partition)
SELECT %s, number FROM generate_series(0, %s::integer - 1) AS number

-- name: alter_topic
UPDATE openstream.topics
SET retention_ms = %s, retention_bytes = %s, history_ms = %s, max_stream_len = %s
WHERE name = %s AND deleting_at IS NULL
  AND (retention_ms, retention_bytes, history_ms, max_stream_len)
      IS DISTINCT FROM (%s::bigint, %s::bigint, %s::bigint, %s::bigint)
RETURNING id

-- name: mark_topic
UPDATE openstream.topics SET deleting_at = now() WHERE name = %s AND deleting_at IS NULL RETURNING id

-- name: close_partitions
-- Locked in key order as writers do it; the new epoch fences off whoever owns one.
WITH locked AS (
    SELECT topic_id, partition FROM openstream.partitions WHERE topic_id = %s ORDER BY partition FOR NO KEY UPDATE
)
UPDATE openstream.partitions p
SET closed = true, epoch = p.epoch + 1, owner = NULL, updated_at = now()
FROM locked l
WHERE p.topic_id = l.topic_id AND p.partition = l.partition

-- name: lock_topic
SELECT deleting_at IS NOT NULL FROM openstream.topics WHERE id = %s FOR UPDATE

-- name: is_deleting
SELECT deleting_at IS NOT NULL FROM openstream.topics WHERE id = %s

-- name: purge_quarantine
DELETE FROM openstream.quarantine WHERE id IN (SELECT id FROM openstream.quarantine WHERE topic_id = %s LIMIT %s)

-- name: purge_groups
DELETE FROM openstream.groups WHERE topic_id = %s

-- name: purge_partitions
DELETE FROM openstream.partitions WHERE topic_id = %s

-- name: purge_topic
DELETE FROM openstream.topics WHERE id = %s

-- name: groups
SELECT g.topic_id, t.name, g.name, g.start_id, (extract(epoch FROM g.created_at) * 1000)::bigint, g.visibility,
       g.max_deliveries, g.claim_idle_ms, g.dead_letter_topic, g.paused
FROM openstream.groups g
JOIN openstream.topics t ON t.id = g.topic_id
WHERE t.deleting_at IS NULL
ORDER BY t.name, g.name

-- name: group
SELECT g.topic_id, t.name, g.name, g.start_id, (extract(epoch FROM g.created_at) * 1000)::bigint, g.visibility,
       g.max_deliveries, g.claim_idle_ms, g.dead_letter_topic, g.paused
FROM openstream.groups g
JOIN openstream.topics t ON t.id = g.topic_id
WHERE t.deleting_at IS NULL AND t.name = %s AND g.name = %s

-- name: share_topic
-- Holds off begin_delete until the group is committed.
SELECT 1 FROM openstream.topics WHERE id = %s AND deleting_at IS NULL FOR SHARE

-- name: create_group
INSERT INTO openstream.groups (topic_id, name, start_id, visibility,
                               max_deliveries, claim_idle_ms, dead_letter_topic, paused)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING RETURNING 1

-- name: alter_group
UPDATE openstream.groups g
SET max_deliveries = %s, claim_idle_ms = %s, dead_letter_topic = %s, paused = %s
FROM openstream.topics t
WHERE t.id = g.topic_id AND t.deleting_at IS NULL AND g.topic_id = %s AND g.name = %s

-- name: delete_group
DELETE FROM openstream.groups g
USING openstream.topics t
WHERE t.id = g.topic_id AND t.deleting_at IS NULL AND g.topic_id = %s AND g.name = %s

-- name: time_partitions
-- Days, and what each is divided into.
SELECT day.relname, part.relname
FROM pg_catalog.pg_inherits d
JOIN pg_catalog.pg_class day ON day.oid = d.inhrelid
LEFT JOIN pg_catalog.pg_inherits p ON p.inhparent = d.inhrelid
LEFT JOIN pg_catalog.pg_class part ON part.oid = p.inhrelid
WHERE d.inhparent = 'openstream.event_log'::regclass
ORDER BY day.relname, part.relname

-- name: is_attached
SELECT 1 FROM pg_catalog.pg_inherits WHERE inhrelid = to_regclass(%s) AND inhparent = to_regclass(%s)

-- name: histories
SELECT DISTINCT history_ms FROM openstream.topics WHERE deleting_at IS NULL

-- name: lock_day
SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)

-- name: server_ms
SELECT (extract(epoch FROM now()) * 1000)::bigint

-- name: try_lock_expiry
SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock(%s)

-- name: haste
-- Who comes after somebody that waits for an exclusive lock waits as well: so we do not wait long. And tables are looked
-- into by their index, whatever the statistics say: in the middle of one nothing says that a topic has no row.
SELECT set_config('lock_timeout', '100ms', true), set_config('enable_seqscan', 'off', true)

-- name: raise_floors
-- To where the history ends now, and never beyond the cursor. In steps of a part of the history, so that no row is
-- touched for a moment's sake. Partitions that are being written, and topics that are being altered, have their turn in
-- the next round: nobody waits for this.
WITH due AS (
    SELECT p.topic_id, p.partition, target.ms, target.seq, t.name
    FROM openstream.partitions p
    JOIN openstream.topics t ON t.id = p.topic_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN ends_ms <= p.last_ms THEN ends_ms
                    WHEN p.last_seq < 9223372036854775807 THEN p.last_ms ELSE p.last_ms + 1 END AS ms,
               CASE WHEN ends_ms <= p.last_ms OR p.last_seq = 9223372036854775807 THEN 0
                    ELSE p.last_seq + 1 END AS seq,
               ends_ms > p.last_ms AS is_all
        FROM (VALUES (%(now_ms)s::bigint - t.history_ms)) AS history (ends_ms)
    ) target
    WHERE t.history_ms IS NOT NULL AND t.deleting_at IS NULL AND NOT p.closed
      AND (p.first_ms, 0) < (target.ms, target.seq)
      AND (target.ms, target.seq) > (p.floor_ms, p.floor_seq)
      AND (target.is_all OR target.ms - p.floor_ms >= t.history_ms / 64)
    FOR NO KEY UPDATE OF p SKIP LOCKED FOR SHARE OF t SKIP LOCKED
)
UPDATE openstream.partitions p
SET floor_ms = due.ms, floor_seq = due.seq
FROM due
WHERE p.topic_id = due.topic_id AND p.partition = due.partition
RETURNING due.name, due.ms

-- name: outlived
-- For each partition the time below which it needs no row: its floor, or all when its floor is past its last event; and
-- never more than its topic's history says now, which may have been made longer since the floor was raised.
SELECT p.topic_id, p.partition,
       CASE WHEN t.history_ms IS NULL THEN 0
            WHEN (p.floor_ms, p.floor_seq) > (p.last_ms, p.last_seq) THEN %(now_ms)s::bigint - t.history_ms
            ELSE least(p.floor_ms, %(now_ms)s::bigint - t.history_ms) END
FROM openstream.partitions p
JOIN openstream.topics t ON t.id = p.topic_id
WHERE NOT p.closed

-- name: divisions
SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = to_regclass(%s)

-- name: size
SELECT pg_total_relation_size(to_regclass(%s))

-- name: settle_session
-- Never less than a commit on disk, and never less than the operator asked for.
SELECT set_config('statement_timeout', %s, false),
       set_config('lock_timeout', %s, false),
       set_config('idle_in_transaction_session_timeout', %s, false),
       set_config('search_path', 'pg_catalog', false),
       CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END

-- name: history_page
-- One page of a partition's log, over the primary key. At most `scan` rows are looked at, however few of them match, and
-- sizes are known without fetching what was stored out of line. The last row looked at comes along even when it does not
-- match: it says how far the page reaches.
SELECT ms, seq, event_type, partition_key, CASE WHEN matches THEN payload END, timestamp_ms, headers,
       matches, number, bytes
FROM (
    SELECT *,
           row_number() OVER log AS number,
           sum(CASE WHEN matches THEN size ELSE 0 END) OVER log AS bytes,
           count(*) FILTER (WHERE matches) OVER log AS events
    FROM (
        SELECT ms, seq, event_type, partition_key, payload, timestamp_ms, headers,
               %(event_type)s::text IS NULL OR event_type = %(event_type)s::text AS matches,
               octet_length(payload) + octet_length(event_type) + coalesce(octet_length(partition_key), 0)
               + coalesce(octet_length(headers), 0) AS size
        FROM openstream.event_log
        WHERE topic_id = %(topic_id)s AND partition = %(partition)s AND idx = 0
          AND generation = (SELECT generation FROM openstream.partitions
                            WHERE topic_id = %(topic_id)s AND partition = %(partition)s AND NOT closed)
          AND ms BETWEEN %(first_ms)s AND %(last_ms)s
          AND (ms, seq) >= (%(first_ms)s, %(first_seq)s) AND (ms, seq) <= (%(last_ms)s, %(last_seq)s)
        ORDER BY ms, seq
        LIMIT %(scan)s
    ) looked_at
    WINDOW log AS (ORDER BY ms, seq ROWS UNBOUNDED PRECEDING)
) sized
WHERE bytes - CASE WHEN matches THEN size ELSE 0 END < %(max_bytes)s
  AND events - matches::integer < %(count)s
  AND (matches OR number = %(scan)s)
ORDER BY ms, seq

-- name: history_page_of_key
-- The same for one key, over event_log_key: the hash finds the rows, the key itself decides.
SELECT ms, seq, event_type, partition_key, CASE WHEN matches THEN payload END, timestamp_ms, headers,
       matches, number, bytes
FROM (
    SELECT *,
           row_number() OVER log AS number,
           sum(CASE WHEN matches THEN size ELSE 0 END) OVER log AS bytes,
           count(*) FILTER (WHERE matches) OVER log AS events
    FROM (
        SELECT ms, seq, event_type, partition_key, payload, timestamp_ms, headers,
               %(event_type)s::text IS NULL OR event_type = %(event_type)s::text AS matches,
               octet_length(payload) + octet_length(event_type) + octet_length(partition_key)
               + coalesce(octet_length(headers), 0) AS size
        FROM openstream.event_log
        WHERE topic_id = %(topic_id)s AND partition = %(partition)s AND idx = 0
          AND hashtextextended(partition_key, 0) = hashtextextended(%(key)s::text, 0) AND partition_key = %(key)s::text
          AND generation = (SELECT generation FROM openstream.partitions
                            WHERE topic_id = %(topic_id)s AND partition = %(partition)s AND NOT closed)
          AND ms BETWEEN %(first_ms)s AND %(last_ms)s
          AND (ms, seq) >= (%(first_ms)s, %(first_seq)s) AND (ms, seq) <= (%(last_ms)s, %(last_seq)s)
        ORDER BY ms, seq
        LIMIT %(scan)s
    ) looked_at
    WINDOW log AS (ORDER BY ms, seq ROWS UNBOUNDED PRECEDING)
) sized
WHERE bytes - CASE WHEN matches THEN size ELSE 0 END < %(max_bytes)s
  AND events - matches::integer < %(count)s
  AND (matches OR number = %(scan)s)
ORDER BY ms, seq

-- name: whereabouts
-- Where a reading of a partition from some position on begins, and the next days there are from there on.
SELECT at.ms, at.seq,
       ARRAY(SELECT c.relname::text
             FROM pg_catalog.pg_inherits i
             JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'openstream.event_log'::regclass
               AND c.relname >= ('event_log_d' || lpad((at.ms / 86400000)::text, 12, '0'))::name
             ORDER BY c.relname
             LIMIT %(days)s)
FROM openstream.partitions p
CROSS JOIN LATERAL (SELECT r.ms, r.seq FROM (VALUES (floor_ms, floor_seq), (%(ms)s::bigint, %(seq)s::bigint)) r (ms, seq)
                    ORDER BY r.ms DESC, r.seq DESC LIMIT 1) at
WHERE topic_id = %(topic_id)s AND partition = %(partition)s

-- name: floor
SELECT floor_ms, floor_seq FROM openstream.partitions WHERE topic_id = %s AND partition = %s

-- name: floors
SELECT partition, floor_ms, floor_seq FROM openstream.partitions WHERE topic_id = %s AND NOT closed

-- name: history_at
-- Events by their positions. The bounds on ms alone let the planner leave out the other days.
SELECT e.ms, e.seq, e.event_type, e.partition_key, e.payload, e.timestamp_ms, e.headers
FROM unnest(%(ms)s::bigint[], %(seq)s::bigint[]) AS wanted (ms, seq)
JOIN openstream.event_log e USING (ms, seq)
WHERE e.topic_id = %(topic_id)s AND e.partition = %(partition)s AND e.idx = 0
  AND e.generation = (SELECT generation FROM openstream.partitions
                      WHERE topic_id = %(topic_id)s AND partition = %(partition)s AND NOT closed)
  AND (e.ms, e.seq) >= (SELECT floor_ms, floor_seq FROM openstream.partitions
                        WHERE topic_id = %(topic_id)s AND partition = %(partition)s)
  AND e.ms BETWEEN %(first_ms)s AND %(last_ms)s
ORDER BY e.ms, e.seq

-- name: history_count
SELECT count(*)
FROM openstream.event_log
WHERE topic_id = %(topic_id)s AND partition = %(partition)s AND idx = 0
  AND generation = (SELECT generation FROM openstream.partitions
                    WHERE topic_id = %(topic_id)s AND partition = %(partition)s AND NOT closed)
  AND (ms, seq) >= (SELECT floor_ms, floor_seq FROM openstream.partitions
                    WHERE topic_id = %(topic_id)s AND partition = %(partition)s)
  AND ms BETWEEN %(after_ms)s AND %(upto_ms)s
  AND (ms, seq) > (%(after_ms)s, %(after_seq)s) AND (ms, seq) <= (%(upto_ms)s, %(upto_seq)s)

-- name: save_positions
-- Of groups that are there: one that was deleted meanwhile is no error.
INSERT INTO openstream.group_positions AS p (topic_id, name, partition, ms, seq)
SELECT m.topic_id, m.name, m.partition, m.ms, m.seq
FROM unnest(%s::integer[], %s::text[], %s::integer[], %s::bigint[], %s::bigint[]) AS m (topic_id, name, partition, ms, seq)
JOIN openstream.groups g ON g.topic_id = m.topic_id AND g.name = m.name
ON CONFLICT (topic_id, name, partition) DO UPDATE SET ms = excluded.ms, seq = excluded.seq, updated_at = now()
WHERE (p.ms, p.seq) IS DISTINCT FROM (excluded.ms, excluded.seq)

-- name: positions
SELECT partition, ms, seq FROM openstream.group_positions WHERE topic_id = %s AND name = %s

-- name: create_replay
INSERT INTO openstream.replays (id, source_id, source, target_id, target, target_partitions, first_ms, first_seq,
                                last_ms, last_seq, rate_per_s, total)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)

-- name: create_replay_parts
INSERT INTO openstream.replay_parts (replay_id, partition, start_ms, start_seq, upto_ms, upto_seq, done_ms, done_seq)
SELECT %s, u.partition, u.start_ms, u.start_seq, u.upto_ms, u.upto_seq, u.start_ms, u.start_seq
FROM unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
     AS u (partition, start_ms, start_seq, upto_ms, upto_seq)

-- name: forget_replays
DELETE FROM openstream.replays
WHERE settled AND id IN (SELECT id FROM openstream.replays WHERE settled ORDER BY finished_at DESC OFFSET %s)

-- name: replay
SELECT id, source_id, source, target_id, target, target_partitions, first_ms, first_seq, last_ms, last_seq,
       rate_per_s, total, state, copied, rate, error, owner, epoch, (extract(epoch FROM created_at) * 1000)::bigint,
       (extract(epoch FROM updated_at) * 1000)::bigint, (extract(epoch FROM finished_at) * 1000)::bigint
FROM openstream.replays
WHERE id = %s

-- name: replays
SELECT id, source_id, source, target_id, target, target_partitions, first_ms, first_seq, last_ms, last_seq,
       rate_per_s, total, state, copied, rate, error, owner, epoch, (extract(epoch FROM created_at) * 1000)::bigint,
       (extract(epoch FROM updated_at) * 1000)::bigint, (extract(epoch FROM finished_at) * 1000)::bigint
FROM openstream.replays
ORDER BY created_at DESC, id

-- name: replay_parts
SELECT partition, start_ms, start_seq, upto_ms, upto_seq, done_ms, done_seq, copied, marks
FROM openstream.replay_parts
WHERE replay_id = %s
ORDER BY partition

-- name: cancel_replay
UPDATE openstream.replays
SET state = 'cancelled', finished_at = clock_timestamp(), updated_at = clock_timestamp(), rate = 0
WHERE id = %s AND state = 'running'
RETURNING 1

-- name: take_replay
UPDATE openstream.replays
SET owner = %s, epoch = epoch + 1, lease_until = clock_timestamp() + %s * interval '1 millisecond'
WHERE id = (
    SELECT id FROM openstream.replays
    WHERE NOT settled AND (lease_until IS NULL OR lease_until <= clock_timestamp())
    ORDER BY created_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING id

-- name: move_replay
-- First in its transaction: the lock on the row holds off a later owner until the parts are written.
UPDATE openstream.replays
SET rate = CASE WHEN state = 'running' THEN %s ELSE 0 END, updated_at = clock_timestamp(),
    lease_until = clock_timestamp() + %s * interval '1 millisecond'
WHERE id = %s AND epoch = %s AND NOT settled
RETURNING state

-- name: move_replay_parts
UPDATE openstream.replay_parts p
SET done_ms = u.ms, done_seq = u.seq, copied = greatest(p.copied, u.copied), marks = u.marks
FROM unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::bigint[], %s::jsonb[]) AS u (partition, ms, seq, copied, marks)
WHERE p.replay_id = %s AND p.partition = u.partition AND (p.done_ms, p.done_seq) <= (u.ms, u.seq)

-- name: sum_replay
UPDATE openstream.replays r
SET copied = (SELECT coalesce(sum(copied), 0) FROM openstream.replay_parts WHERE replay_id = r.id)
WHERE id = %s

-- name: end_replay
-- The lease stays: marks are still to be ended, by us or by whoever follows.
UPDATE openstream.replays
SET state = %(state)s, error = %(error)s, total = CASE WHEN %(state)s = 'done' THEN copied ELSE total END,
    rate = 0, updated_at = clock_timestamp(), finished_at = clock_timestamp()
WHERE id = %(id)s AND epoch = %(epoch)s AND state = 'running'

-- name: settle_replay
UPDATE openstream.replays
SET settled = true, rate = 0, owner = NULL, lease_until = NULL
WHERE id = %s AND epoch = %s AND NOT settled AND state <> 'running'
RETURNING 1

-- name: release_replay
UPDATE openstream.replays SET owner = NULL, lease_until = NULL, rate = 0 WHERE id = %s AND epoch = %s AND NOT settled

-- name: note_redrive
-- Of topics that are there: the letters of one that was deleted meanwhile are gone.
INSERT INTO openstream.redriven (topic_id, partition, ms, seq, batch_ms, batch_seq)
SELECT t.id, %s, u.ms, u.seq, %s, %s
FROM unnest(%s::bigint[], %s::bigint[]) AS u (ms, seq)
JOIN openstream.topics t ON t.id = %s
ON CONFLICT DO NOTHING

-- name: settle_redrive
UPDATE openstream.redriven SET settled = true
WHERE topic_id = %s AND partition = %s AND batch_ms = %s AND batch_seq = %s AND NOT settled

-- name: redriven
SELECT DISTINCT ms, seq FROM openstream.redriven
WHERE topic_id = %s AND partition = %s AND (ms, seq) IN (SELECT * FROM unnest(%s::bigint[], %s::bigint[])) AND settled
