"""The board: what actors publish and everybody may look at without asking anyone.

Each part has one writer. Readers never wait; who wants to hear of a change waits for `changed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio

from openstream_runtime.domain.heights import Heights
from openstream_runtime.domain.positions import Cursor, TopicPartition
from openstream_runtime.domain.topics import Group, Topic
from openstream_runtime.ports.log import StreamStats
from openstream_runtime.ports.nodes import NodeInfo


class Changed:
    """A signal many can wait for: every `wait` sees the changes from after `mark` was taken."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def mark(self) -> anyio.Event:
        """Take this before looking at the state, wait for it afterwards: no change falls in between."""
        return self._event

    def tell(self) -> None:
        self._event.set()
        self._event = anyio.Event()


@dataclass(frozen=True, slots=True)
class Sample:
    """The metrics actor's last look around. Times are monotonic seconds."""

    taken_at: float
    streams: Mapping[TopicPartition, StreamStats] = field(default_factory=dict)
    cursors: Mapping[TopicPartition, Cursor] = field(default_factory=dict)
    used_memory: int = 0
    maxmemory: int = 0
    #: Persisted events a second, by partition, smoothed.
    persist_rate: Mapping[TopicPartition, float] = field(default_factory=dict)
    #: For how many seconds the oldest event has waited: for PostgreSQL, and for each group.
    unpersisted_lag: Mapping[TopicPartition, float] = field(default_factory=dict)
    group_lag: Mapping[TopicPartition, Mapping[str, float]] = field(default_factory=dict)


@dataclass(slots=True)
class Health:
    """Whether a backend answered whoever talks to it all the time anyway: no probe of its own."""

    ok: bool = False
    detail: str = "not asked yet"

    def answered(self) -> None:
        self.ok, self.detail = True, ""

    def failed(self, error: Exception) -> None:
        self.ok, self.detail = False, str(error)


class View(NamedTuple):
    """Topics and groups at one moment."""

    topics: Mapping[str, Topic]
    groups: Mapping[tuple[str, str], Group]


class Board:
    """One for each node. Lives outside the tree: it survives every restart of an actor."""

    def __init__(self, node: NodeInfo) -> None:
        self.node = node
        self.draining = False
        #: Live nodes, ourselves included as long as we do not leave. Written by membership.
        self.nodes: Sequence[NodeInfo] = ()
        self.topics: Mapping[str, Topic] = {}
        self.groups: Mapping[tuple[str, str], Group] = {}
        self.sample = Sample(taken_at=0.0)
        #: Written by the metrics actor and the ingestors.
        self.heights = Heights()
        self.redis = Health()
        self.postgres = Health()
        #: Epochs under which this node persists, by partition. Written by the persisters.
        self.held: dict[TopicPartition, int] = {}
        #: Told when nodes, topics or draining changed: what the assigner reacts to.
        self.changed = Changed()

    def begin_draining(self) -> None:
        self.draining = True
        self.changed.tell()

    def set_nodes(self, nodes: Sequence[NodeInfo]) -> None:
        if [node.id for node in nodes] != [node.id for node in self.nodes]:
            self.nodes = nodes
            self.changed.tell()
        else:
            self.nodes = nodes

    def set_catalog(self, topics: Iterable[Topic], groups: Iterable[Group], *, since: View | None = None) -> bool:
        """Publish what was read from PostgreSQL; `since` is the view at the time the reading began.

        What somebody on this node has made, changed or removed meanwhile stands: the reading may be older. Returns
        whether there was any such thing; then it should be read once more.
        """
        read_topics = {topic.name: topic for topic in topics}
        read_groups = {(group.topic, group.name): group for group in groups}
        before = since or self.view()
        newer_topics = {name: one for name, one in self.topics.items() if before.topics.get(name) is not one}
        newer_groups = {key: one for key, one in self.groups.items() if before.groups.get(key) is not one}
        dropped = before.groups.keys() - self.groups.keys()
        self.topics = read_topics | newer_topics
        self.groups = {key: one for key, one in read_groups.items() if key not in dropped} | newer_groups
        self.changed.tell()
        return bool(newer_topics or newer_groups or dropped)

    def view(self) -> View:
        """The catalog as this node sees it now. Neither mapping is ever changed in place."""
        return View(self.topics, self.groups)

    def add_topic(self, topic: Topic) -> None:
        """A topic somebody on this node has just made or looked up; the catalog keeper confirms it later."""
        self.topics = {**self.topics, topic.name: topic}
        self.changed.tell()

    def add_group(self, group: Group) -> None:
        self.groups = {**self.groups, (group.topic, group.name): group}

    def drop_group(self, topic: str, group: str) -> None:
        self.groups = {key: value for key, value in self.groups.items() if key != (topic, group)}

    def groups_of(self, topic: Topic) -> list[Group]:
        return [group for group in self.groups.values() if group.topic_id == topic.id]

    def live_partitions(self) -> list[TopicPartition]:
        return [at for topic in self.topics.values() if not topic.deleting for at in topic.all_partitions()]
