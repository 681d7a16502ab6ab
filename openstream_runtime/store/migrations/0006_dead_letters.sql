-- What may be set on a consumer group, and which dead letters went back.

ALTER TABLE openstream.groups
    -- NULL: an event is handed out until somebody acks it.
    ADD COLUMN max_deliveries    integer CHECK (max_deliveries > 0),
    -- NULL: the node's default.
    ADD COLUMN claim_idle_ms     bigint CHECK (claim_idle_ms > 0),
    -- NULL: a name made of those of topic and group.
    ADD COLUMN dead_letter_topic text COLLATE "C",
    ADD COLUMN paused            boolean NOT NULL DEFAULT false;

-- A letter of the dead-letter topic `topic_id` goes back once. Written after the copy was appended; until then the mark in
-- Redis, which every later copy has to move, says that it was.
CREATE TABLE openstream.redriven (
    topic_id    integer NOT NULL REFERENCES openstream.topics (id) ON DELETE CASCADE,
    partition   integer NOT NULL,
    ms          bigint  NOT NULL,
    seq         bigint  NOT NULL,
    redriven_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic_id, partition, ms, seq)
);
