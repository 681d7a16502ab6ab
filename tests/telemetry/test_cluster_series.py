"""Each number of the cluster is told by one node: whatever they own, a sum over the nodes is true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse_text

from openstream_runtime.domain.positions import ZERO, Position, TopicPartition
from openstream_runtime.ports.log import GroupStats, StreamStats
from openstream_runtime.telemetry.metrics import Metrics
from openstream_runtime.telemetry.node_gauges import MOST_MAILBOXES, NodeState
from openstream_runtime.telemetry.sampled import ClusterSample
from openstream_runtime.telemetry.series import MOST_SERIES

NODES = ("n1", "n2", "n3")
CLUSTER_WIDE = {
    "openstream_nodes_alive",
    "openstream_partitions_unowned",
    "openstream_redis_memory_used_bytes",
    "openstream_redis_memory_limit_bytes",
}


def stats(owner: str | None, length: int = 1) -> StreamStats:
    group = GroupStats("g", 1, 2, 3, ZERO, None)
    return StreamStats(length, Position(5, 0), 4, ZERO, owner, groups=(group,))


def told(me: str, streams: dict[TopicPartition, StreamStats], nodes: Sequence[str] = NODES) -> Metrics:
    metrics = Metrics(version="1")
    lags = {at: {"g": 1.0} for at in streams}
    metrics.observe_sample(
        ClusterSample(
            streams, {"used_memory": 1, "maxmemory": 2}, nodes, me, dict.fromkeys(streams, 1.0), group_lag=lags
        )
    )
    return metrics


def cluster_series(metrics: Metrics) -> list[str]:
    return [
        f"{sample.name}{sorted(sample.labels.items())}"
        for family in parse_text(metrics.exposition("")[1].decode())
        for sample in family.samples
        if sample.name in CLUSTER_WIDE or "partition" in sample.labels
    ]


@given(st.lists(st.sampled_from([*NODES, None, "dead"]), min_size=1, max_size=12))
def test_every_series_is_told_by_exactly_one_of_the_nodes(owners: list[str | None]) -> None:
    streams = {TopicPartition("orders", number): stats(owner) for number, owner in enumerate(owners)}
    heard = Counter(series for node in NODES for series in cluster_series(told(node, streams)))
    assert set(heard.values()) == {1}
    assert len(heard) == len(CLUSTER_WIDE) + 7 * len(owners)


def test_a_node_that_is_no_member_tells_nothing_of_the_cluster() -> None:
    streams = {TopicPartition("orders", 0): stats(None)}
    assert not cluster_series(told("stranger", streams))
    assert not cluster_series(told("n1", streams, nodes=()))


def test_a_draining_node_leaves_the_telling_to_the_others() -> None:
    metrics = told("n1", {TopicPartition("orders", 0): stats("n1")})
    assert cluster_series(metrics)
    metrics.withdraw()
    assert not cluster_series(metrics)
    assert "openstream_sample_age_seconds" in metrics.exposition("")[1].decode()


def test_more_partitions_than_the_bound_are_put_together_and_none_is_lost() -> None:
    streams = {TopicPartition("orders", number): stats("n1", length=2) for number in range(MOST_SERIES + 5)}
    lengths = {
        sample.labels["partition"]: sample.value
        for family in parse_text(told("n1", streams).exposition("")[1].decode())
        for sample in family.samples
        if sample.name == "openstream_stream_length"
    }
    assert len(lengths) == MOST_SERIES + 1
    assert lengths["_other_"] == 10
    assert sum(lengths.values()) == 2 * (MOST_SERIES + 5)


def test_counters_beyond_the_bound_are_put_together() -> None:
    metrics = Metrics(version="1")
    for number in range(MOST_SERIES + 3):
        metrics.acked("orders", f"g{number}", 1)
    text = metrics.exposition("")[1].decode()
    assert 'openstream_consumer_ack_total{group="_other_",topic="_other_"} 3.0' in text
    metrics.forget_topic("orders")
    assert 'group="g0"' not in metrics.exposition("")[1].decode()


def test_of_very_many_mailboxes_the_fullest_are_shown_one_by_one() -> None:
    metrics = Metrics(version="1")
    boxes = {f"ingestion/t{number}": (1, number) for number in range(MOST_MAILBOXES + 2)}
    metrics.observe_node(lambda: NodeState(mailboxes=boxes))
    text = metrics.exposition("")[1].decode()
    assert 'openstream_mailbox_messages{mailbox="_other_"} 2.0' in text
    assert 'openstream_mailbox_bytes{mailbox="_other_"} 1.0' in text
    assert 'mailbox="ingestion/t1"' not in text
