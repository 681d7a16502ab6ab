"""What the nodes of a cluster tell Prometheus, taken together: each number once, whoever owns what and leaves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families as parse_text

from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import Cluster
from support.partitions import lengths, wait_for

PARTITIONS = 6
TOLD_ONCE = (
    "openstream_stream_length",
    "openstream_unpersisted_events",
    "openstream_unpersisted_seconds",
    "openstream_group_lag_events",
    "openstream_group_lag_seconds",
    "openstream_group_pending_events",
)
OF_NOBODY = ("openstream_redis_memory_used_bytes", "openstream_nodes_alive", "openstream_partitions_unowned")


def told(cluster: Cluster, numbers: list[int]) -> tuple[Counter[str], dict[str, float]]:
    """How often each series of the cluster is told, and the sums by metric, over these nodes."""
    times, sums = Counter[str](), dict[str, float]()
    for number in numbers:
        body = cluster.request(number, "GET", "/metrics")[1].decode()
        for family in parse_text(body):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
                if sample.name in (*TOLD_ONCE, *OF_NOBODY):
                    times[f"{sample.name} {sorted(sample.labels.items())}"] += 1
    return times, sums


def test_sums_over_the_nodes_are_true_before_and_after_one_leaves(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    with Cluster(own_servers, tmp_path, nodes=2) as cluster:
        client = Client(cluster.url(0), cluster.token())
        assert client.produce("orders", list(range(90)), partitions=PARTITIONS).status == 200
        assert client.produce("orders", list(range(90)), keys=[f"k{n}" for n in range(90)]).status == 200
        assert client.post("/v1/topics/orders/groups", {"group": "g", "start_id": "0-0"}).status == 201
        client.post("/v1/topics/orders/groups/g/read", {"consumer": "c", "count": 50, "block_ms": 0})

        def true_of(numbers: list[int]) -> bool:
            times, sums = told(cluster, numbers)
            return (
                set(times.values()) == {1}
                and len(times) == len(TOLD_ONCE) * PARTITIONS + len(OF_NOBODY)
                and sums["openstream_stream_length"] == sum(lengths(own_servers.redis_url, "orders", PARTITIONS)) == 180
                and sums["openstream_group_pending_events"] == 50
                and sums["openstream_group_lag_events"] == 130
                and sums["openstream_group_lag_seconds"] > 0
                and sums["openstream_unpersisted_events"] == 0
                and sums["openstream_partitions_held"] == PARTITIONS
                and sums["openstream_nodes_alive"] == len(numbers)
            )

        wait_for(lambda: true_of([0, 1]), "two nodes tell each number once, and the sums are true", 15)
        assert told(cluster, [0, 1])[1]["openstream_persist_delay_seconds_count"] == 180
        cluster.stop(1)
        wait_for(lambda: true_of([0]), "the one that stays tells all of it", 15)
