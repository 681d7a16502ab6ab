-- What may be set on a consumer group, and which dead letters went back.

ALTER TABLE openstream.groups
    -- NULL: an event is handed out until somebody acks it.
    ADD COLUMN max_deliveries    integer CHECK (max_deliveries > 0),
    -- NULL: the node's default.
    ADD COLUMN claim_idle_ms     bigint CHECK (claim_idle_ms > 0),
    -- NULL: a name made of those of topic and group.
    ADD COLUMN dead_letter_topic text COLLATE "C",
    ADD COLUMN paused            boolean NOT NULL DEFAULT false;

-- Letters of the dead-letter topic `topic_id` that went back, or were about to. Written before a batch of them is appended,
-- under an id of its own; settled when the append is known to be kept, which the mark it moved in Redis tells. A letter
-- goes once: whoever wants to append settles the batch the mark stands for first, then looks here.
CREATE TABLE openstream.redriven (
    topic_id    integer NOT NULL REFERENCES openstream.topics (id) ON DELETE CASCADE,
    partition   integer NOT NULL,
    ms          bigint  NOT NULL,
    seq         bigint  NOT NULL,
    batch_ms    bigint  NOT NULL,
    batch_seq   bigint  NOT NULL,
    settled     boolean NOT NULL DEFAULT false,
    noted_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic_id, partition, ms, seq, batch_ms, batch_seq)
);
CREATE INDEX redriven_batch ON openstream.redriven (topic_id, partition, batch_ms, batch_seq) WHERE NOT settled;
