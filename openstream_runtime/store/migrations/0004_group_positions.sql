-- Where consumer groups are, for the day Redis has lost it; and what a group is shown.

-- `appended`: events as soon as Redis has them; `persisted`: when they are here, so that no failover can take them back.
ALTER TABLE openstream.groups
    ADD COLUMN visibility text NOT NULL DEFAULT 'appended' CHECK (visibility IN ('appended', 'persisted'));

-- Everything up to the position was acknowledged. Written about every second while it moves, hence the fillfactor.
CREATE TABLE openstream.group_positions (
    topic_id   integer NOT NULL,
    name       text COLLATE "C" NOT NULL,
    partition  integer NOT NULL,
    ms         bigint  NOT NULL,
    seq        bigint  NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic_id, name, partition),
    FOREIGN KEY (topic_id, name) REFERENCES openstream.groups (topic_id, name) ON DELETE CASCADE
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
