-- Replay jobs. A row is leased by one node at a time, for liveness; its epoch is what every write of an owner is fenced
-- by. No foreign keys: a replay of a topic that is deleted ends by itself, and its row is history.

CREATE TABLE openstream.replays (
    id          text COLLATE "C" PRIMARY KEY,
    source_id   integer NOT NULL,
    source      text NOT NULL,
    target_id   integer NOT NULL,
    target      text NOT NULL,
    target_partitions integer NOT NULL,
    -- As asked, for people; what is copied stands in replay_parts.
    first_ms    bigint,
    first_seq   bigint,
    last_ms     bigint,
    last_seq    bigint,
    rate_per_s  double precision CHECK (rate_per_s > 0),
    total       bigint,
    state       text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'cancelled', 'failed')),
    -- Nothing is left to do, not even after a cancellation.
    settled     boolean NOT NULL DEFAULT false,
    copied      bigint NOT NULL DEFAULT 0,
    rate        double precision NOT NULL DEFAULT 0,
    error       text,
    owner       text,
    epoch       bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
) WITH (fillfactor = 50);
CREATE INDEX replays_unsettled ON openstream.replays (created_at) WHERE NOT settled;

CREATE TABLE openstream.replay_parts (
    replay_id text COLLATE "C" NOT NULL REFERENCES openstream.replays (id) ON DELETE CASCADE,
    partition integer NOT NULL,
    -- What is copied: everything after `start` up to `upto`. Everything up to `done` has been.
    start_ms  bigint NOT NULL,
    start_seq bigint NOT NULL,
    upto_ms   bigint NOT NULL,
    upto_seq  bigint NOT NULL,
    done_ms   bigint NOT NULL,
    done_seq  bigint NOT NULL,
    copied    bigint NOT NULL DEFAULT 0,
    -- {"<target partition>": "<ms>-<seq>"}: the last source position appended there.
    marks     jsonb  NOT NULL DEFAULT '{}',
    PRIMARY KEY (replay_id, partition)
) WITH (fillfactor = 50);
