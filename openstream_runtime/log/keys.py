"""Every Redis key there is. Stream keys are a promise to users; the rest share the slot of what they belong to."""

from __future__ import annotations

from openstream_runtime.domain.positions import TopicPartition

#: Capped stream that wakes the tailers of all nodes; field `b` names the bell.
BELL = b"os:bell"
BELL_LENGTH = 10_000
#: Sorted set of node ids by the time (ms) at which they count as gone, and a hash of what each said of itself.
NODES = b"os:nodes"
NODES_INFO = b"{os:nodes}:info"


def stream(at: TopicPartition) -> bytes:
    return b"os:stream:%b:%d" % (at.topic.encode(), at.partition)


def meta(at: TopicPartition) -> bytes:
    """Hash: tid topic id, run server that was verified, g generation, n ordinal, pid/pn position and ordinal persisted,
    tf the last id ever trimmed;
    pl when Redis was last seen to have lost something, vt when it may have: on another server, or after a flush;
    gb/ge the last ids between which this Redis has given out none; pf since when producers are remembered;
    w nothing, only written;
    for a group that PostgreSQL serves c:<group> where it is, cn:<group> how far behind tf.

    The braces are a hash tag: they put the key into the slot of the stream, so that one script may touch both.
    """
    return b"{%b}:meta" % stream(at)


def lease(at: TopicPartition) -> bytes:
    return b"{%b}:lease" % stream(at)


def sides(at: TopicPartition) -> bytes:
    """What the names of the side streams of a partition begin with; the group's name follows."""
    return b"{%b}:cold:" % stream(at)


def side(at: TopicPartition, group: str) -> bytes:
    """Stream of stubs: what a group holds unacked of entries that were trimmed. Its one consumer group is the group.

    Beside it stand, with the same name and `:due`, a sorted set of delayed entries by the time they are due, and with
    `:dead` a stream of what waits to be moved to the dead-letter topic. Scripts make these names of this one.
    """
    return sides(at) + group.encode()


def marks(at: TopicPartition, replay: str) -> bytes:
    """Hash, one for each replay into this partition: source partition → last source position appended, and `end`.

    Also for dead letters and what is redriven of them; those stay, a field for each partition they come from.
    """
    return b"{%b}:replay:%b" % (stream(at), replay.encode())


def producers(at: TopicPartition) -> tuple[bytes, bytes]:
    """Two hashes, the one that is written and the one before it, which goes when the next one begins: h<producer> what
    its home knows of it, s<producer> its last share here, and under the empty name when the hash was begun."""
    return b"{%b}:producers" % stream(at), b"{%b}:producers:before" % stream(at)


def event_ids(at: TopicPartition) -> tuple[bytes, bytes]:
    """The same of events: =<event_id> → id in the stream."""
    return b"{%b}:ids" % stream(at), b"{%b}:ids:before" % stream(at)


def owner(token: str) -> str:
    """The node that made a lease token: tokens are `<node>:<anything>`, and node ids hold no colon."""
    return token.partition(":")[0]
