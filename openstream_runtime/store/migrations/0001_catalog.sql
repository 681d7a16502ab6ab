-- Topics, their partitions' cursors, consumer groups: what outlives Redis.

CREATE TABLE openstream.topics (
    id              integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Unique also among topics that are being deleted: a name comes free when the last row of the old topic is gone.
    name            text COLLATE "C" NOT NULL UNIQUE,
    partitions      integer NOT NULL CHECK (partitions > 0),
    retention_ms    bigint,
    retention_bytes bigint,
    history_ms      bigint,
    max_stream_len  bigint,
    created_at      timestamptz NOT NULL DEFAULT now(),
    deleting_at     timestamptz
);

-- One row a partition: the fence and the cursor. Updated by every commit of a persister, so half of each page stays
-- free for updates in place (no key or index column ever changes) and vacuum comes early.
CREATE TABLE openstream.partitions (
    topic_id   integer NOT NULL REFERENCES openstream.topics (id),
    partition  integer NOT NULL,
    epoch      bigint  NOT NULL DEFAULT 0,
    generation integer NOT NULL DEFAULT 0,
    owner      text,
    last_ms    bigint  NOT NULL DEFAULT 0,
    last_seq   bigint  NOT NULL DEFAULT 0,
    -- How many events the cursor has moved over, quarantined ones included.
    n          bigint  NOT NULL DEFAULT 0,
    -- The topic is being deleted: nobody may take it any more. Kept here, beside the epoch, because only a condition
    -- on the locked row itself is looked at again after waiting for the lock.
    closed     boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic_id, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE openstream.groups (
    topic_id   integer NOT NULL REFERENCES openstream.topics (id),
    name       text COLLATE "C" NOT NULL,
    start_id   text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic_id, name)
);

-- One row. Bumped at the end of every transaction that changes a topic or a group, so nodes can ask cheaply.
CREATE TABLE openstream.catalog_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint NOT NULL DEFAULT 0
);
INSERT INTO openstream.catalog_version DEFAULT VALUES;
