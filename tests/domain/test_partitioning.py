"""Rendezvous hashing: the mapping never changes, moves only what must move, and is even.

The golden values below are a promise to every event that is stored: a key that maps elsewhere after an upgrade has its
events in two partitions, in no order. If one of them fails, the change is wrong, not the value.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64

from openstream_runtime.domain.partitioning import owner_of, owners_of, partition_of

KEYS = ["", "user-1", "user-2", "o-1", "é", "日本", "a" * 1_000, "\x00", "0", "1:2"]
GOLDEN = {
    1: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    2: [1, 0, 1, 0, 0, 0, 1, 0, 1, 0],
    8: [1, 5, 6, 3, 0, 4, 5, 4, 5, 5],
    9: [1, 5, 6, 3, 0, 4, 5, 4, 5, 5],
    64: [18, 46, 30, 45, 21, 56, 18, 43, 33, 55],
    1024: [695, 911, 439, 746, 641, 269, 996, 673, 899, 55],
}
NODES = ["node-a", "node-b", "node-c"]
GOLDEN_OWNERS = ["b", "a", "b", "a", "a", "c", "b", "c", "a", "c", "b", "c"]


@pytest.mark.parametrize("partitions", GOLDEN)
def test_keys_map_where_they_have_always_mapped(partitions: int) -> None:
    assert [partition_of(key, partitions) for key in KEYS] == GOLDEN[partitions]


def test_partitions_belong_where_they_have_always_belonged() -> None:
    # Nodes of two versions that live together must agree on who owns what.
    owners = list(owners_of("orders", 12, frozenset(NODES)))
    assert owners == [f"node-{letter}" for letter in GOLDEN_OWNERS]


@given(st.text(max_size=40), st.integers(1, 40))
def test_the_mapping_is_the_one_that_is_written_down_for_clients(key: str, partitions: int) -> None:
    scores = [xxh3_64(f"{number}:{key}".encode()).intdigest() for number in range(partitions)]
    assert partition_of(key, partitions) == scores.index(max(scores))


@given(st.text(max_size=20), st.integers(1, 64))
def test_one_partition_more_moves_a_key_to_it_or_not_at_all(key: str, partitions: int) -> None:
    assert partition_of(key, partitions + 1) in {partition_of(key, partitions), partitions}


def test_from_eight_to_nine_partitions_about_a_ninth_of_the_keys_move() -> None:
    keys = [f"user-{number}" for number in range(9_000)]
    moved = sum(partition_of(key, 8) != partition_of(key, 9) for key in keys)
    assert 850 < moved < 1_150  # 1,000 expected, deviation 30; the keys are fixed, so this never flickers


@pytest.mark.parametrize("partitions", [2, 8, 13, 64])
def test_keys_are_spread_evenly(partitions: int) -> None:
    share = 1_000
    found = Counter(partition_of(f"user-{number}", partitions) for number in range(share * partitions))
    assert set(found) == set(range(partitions))
    assert all(abs(number - share) < 5 * share**0.5 for number in found.values()), found


NAMES = st.frozensets(st.text("abcdef0123", min_size=1, max_size=6), min_size=1, max_size=9)


@given(NAMES, st.integers(1, 70))
def test_no_two_nodes_differ_by_more_than_one_partition_of_a_topic(nodes: frozenset[str], partitions: int) -> None:
    owners = owners_of("orders", partitions, nodes)
    assert len(owners) == partitions
    held = [owners.count(node) for node in nodes]
    assert max(held) - min(held) <= 1


@pytest.mark.parametrize("number", [3, 5, 8])
def test_a_death_moves_what_was_the_dead_ones_and_little_else(number: int) -> None:
    nodes, topics = [f"node-{letter}" for letter in "abcdefgh"[:number]], 60
    moved = dead = 0
    for topic in range(topics):
        before = owners_of(f"topic-{topic}", 32, frozenset(nodes))
        after = owners_of(f"topic-{topic}", 32, frozenset(nodes[1:]))
        dead += before.count(nodes[0])
        moved += sum(one != other for one, other in zip(before, after, strict=True))
    print(f"{number} nodes: {moved / dead:.2f} partitions moved for each of the dead one's")
    assert dead <= moved < 2 * dead


def test_topics_of_one_partition_are_spread_over_the_nodes() -> None:
    owners = Counter(owners_of(f"topic-{topic}", 1, frozenset(NODES))[0] for topic in range(900))
    assert all(250 < number < 350 for number in owners.values()), owners


@given(st.permutations(NODES))
def test_the_order_in_which_nodes_are_named_does_not_matter(nodes: list[str]) -> None:
    assert [owner_of(f"orders/{number}", nodes) for number in range(5)] == [
        owner_of(f"orders/{number}", NODES) for number in range(5)
    ]


def test_with_no_node_nobody_owns_anything_and_any_iterable_of_nodes_will_do() -> None:
    assert owner_of("orders/0", []) is None
    assert owner_of("orders/0", iter({"node-a": 1})) == "node-a"
    assert owners_of("orders", 3, frozenset()) == ()
