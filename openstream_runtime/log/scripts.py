"""The Lua scripts: each file of `lua/` once, with the hash Redis knows it by.

Scripts touch only keys they are given, or whose beginning they are given. All keys of a partition sit in one slot, and
no reply of one partition depends on another's: a version for Redis Cluster only has to split calls by slot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

Arg = bytes | str | int
Command = tuple[Arg, ...]
#: Keys and arguments of a script.
Call = tuple[Sequence[bytes], Sequence[Arg]]


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    source: bytes
    sha: bytes

    def call(self, keys: Sequence[bytes], args: Sequence[Arg]) -> Command:
        return (b"EVALSHA", self.sha, len(keys), *keys, *args)

    def load(self) -> Command:
        return (b"SCRIPT", b"LOAD", self.source)


def _read(name: str) -> bytes:
    return (files(__package__) / "lua" / f"{name}.lua").read_bytes()


def _script(name: str, *preludes: str) -> Script:
    source = b"\n".join([*map(_read, preludes), _read(name)])
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


APPEND = _script("append")
APPEND_ONCE = _script("append_once", "remember")
PRODUCER_BEGIN = _script("producer_begin", "remember")
PRODUCER_FINISH = _script("producer_finish", "remember")
VERIFY = _script("verify", "ids", "trim")
MARK_PERSISTED = _script("mark_persisted", "ids", "trim")
EDGES = _script("edges")
LAST = _script("last")
STATS = _script("stats")
DELETE_PARTITION = _script("delete_partition", "ids", "trim")
END_MARKS = _script("end_marks")

GROUP_READ = _script("group_read", "condemn", "hand_out")
GROUP_CLAIM = _script("group_claim", "condemn", "hand_out")
GROUP_ADVANCE = _script("group_advance", "ids")
GROUP_ACK = _script("group_ack")
GROUP_RELEASE = _script("group_release")
GROUP_RELEASE_IDLE = _script("group_release_idle", "condemn")
GROUP_NACK = _script("group_nack", "condemn")
GROUP_EXTEND = _script("group_extend", "condemn")
GROUP_DEAD = _script("group_dead", "condemn")
GROUP_BURY = _script("group_bury", "condemn")
GROUP_SET_POSITION = _script("group_set_position", "ids")
GROUP_DELETE = _script("group_delete")
GROUP_LOW = _script("group_low", "ids")
GROUP_COUNTED = _script("group_counted")
GROUP_DESCRIBE = _script("group_describe", "ids")
CONSUMERS_REMOVE = _script("consumers_remove")

LEASE_ACQUIRE = _script("lease_acquire")
LEASE_RENEW = _script("lease_renew")
LEASE_RELEASE = _script("lease_release")
MEMBERS_BEAT = _script("members_beat")

ALL = [value for value in list(globals().values()) if isinstance(value, Script)]
