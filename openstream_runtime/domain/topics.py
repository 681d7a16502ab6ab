"""Topics and consumer groups as PostgreSQL knows them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from openstream_runtime.domain.positions import TopicPartition

MAX_PARTITIONS = 1024


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """What may be set on a topic. None: the node's default (for history: for ever)."""

    #: How long Redis keeps a persisted event.
    retention_ms: int | None = None
    #: How many bytes of a partition Redis keeps at most, unpersisted events excepted.
    retention_bytes: int | None = None
    #: How long PostgreSQL keeps an event.
    history_ms: int | None = None
    #: Length of a partition's stream from which producers are refused.
    max_stream_len: int | None = None


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic. `id` is new when a deleted topic is created again, so that nothing of the old one fits the new."""

    id: int
    name: str
    #: Set once, at creation; never taken from a later request.
    partitions: int
    settings: TopicSettings = TopicSettings()
    created_ms: int = 0
    #: Being deleted: nothing may be appended or read any more.
    deleting: bool = False
    #: Events before this time may be gone from PostgreSQL; from then on every partition is whole. 0: nothing is gone.
    history_floor_ms: int = 0

    def all_partitions(self) -> list[TopicPartition]:
        return [TopicPartition(self.name, number) for number in range(self.partitions)]


class Visibility(StrEnum):
    """From when on a group is shown an event."""

    #: Redis has it.
    APPENDED = "appended"
    #: PostgreSQL has it: nothing that Redis could still forget is ever delivered.
    PERSISTED = "persisted"


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """What may be set on a group, at any time."""

    #: How often an event is handed out at most before it becomes a dead letter. None: without end.
    max_deliveries: int | None = None
    #: How long an event may be held without an ack. None: the node's default.
    claim_idle_ms: int | None = None
    #: Where dead letters go. None: `<topic>.dlq.<group>`.
    dead_letter_topic: str | None = None
    #: Nothing is handed out.
    paused: bool = False


GROUP_DEFAULTS = GroupSettings()


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group of a topic. Its positions live in Redis; that it exists, and from where, in PostgreSQL."""

    topic_id: int
    topic: str
    name: str
    #: `$`, `0-0`, `<ms>-<seq>`: where a partition's position begins that Redis knows nothing of.
    start_id: str
    created_ms: int = 0
    visibility: Visibility = Visibility.APPENDED
    settings: GroupSettings = GROUP_DEFAULTS
