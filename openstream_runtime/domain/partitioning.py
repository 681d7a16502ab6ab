"""Rendezvous hashing: keys to partitions, partitions to nodes.

Each candidate is scored by a hash of (key, candidate) and the highest score wins, so a candidate more or less moves
only the keys that must move. Partitions go to nodes by the same scores, but no node gets more than its share. A
key maps the same way on every node and in every client: the score is xxh3_64 of `<candidate>:<key>` in UTF-8, ties
go to the lower candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from xxhash import xxh3_64_intdigest


@lru_cache(maxsize=100_000)  # a hit costs 0.1 µs, eight hashes 1 µs, a thousand 60 µs; 100,000 keys are about 20 MB
def partition_of(key: str, partitions: int) -> int:
    """The partition, 0 to `partitions` - 1, in which every event with this key stands."""
    suffix = b":" + key.encode()
    return max(range(partitions), key=lambda number: xxh3_64_intdigest(b"%d%b" % (number, suffix)))


def owner_of(thing: str, nodes: Iterable[str]) -> str | None:
    """The node among the live ones that should see to a thing; None when there are none."""
    return max(sorted(nodes), key=lambda node: _score(node, thing), default=None)


@lru_cache(maxsize=4_096)
def owners_of(topic: str, partitions: int, nodes: frozenset[str]) -> tuple[str, ...]:
    """The node that should own each partition of a topic; empty when there is no node.

    The best of all scores is served first, and who has his share takes no more: no two nodes differ by more than one
    partition of a topic. When a node goes, its partitions move, and few of the others' make room.
    """
    if not nodes:
        return ()
    share, larger = divmod(partitions, len(nodes))
    scores = [(_score(node, f"{topic}/{number}"), number, node) for number in range(partitions) for node in nodes]
    owners: dict[int, str] = {}
    held = dict.fromkeys(nodes, 0)
    for _, number, node in sorted(scores, reverse=True):
        if number in owners or held[node] > share or (held[node] == share and not larger):
            continue
        larger -= held[node] == share
        held[node] += 1
        owners[number] = node
    return tuple(owners[number] for number in range(partitions))


def _score(node: str, thing: str) -> int:
    return xxh3_64_intdigest(f"{node}:{thing}".encode())
