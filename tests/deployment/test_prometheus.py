"""promtool on what stands in ops/, and a real Prometheus that scrapes nodes under load: every panel and every rule.

`make ops-check`; needs Debian's prometheus.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator

import pytest

from deployment.files import OPS, load, panels
from deployment.live import Prometheus, program, run, running
from openstream_ops import ports
from openstream_ops.servers import EmbeddedServers
from support.client import Client
from support.cluster import HOST, Cluster
from support.partitions import lengths, redis_client, wait_for

pytestmark = [pytest.mark.ops, pytest.mark.timeout(240)]

PROMETHEUS = OPS / "prometheus"
TOPIC, PARTITIONS = "orders", 4
ENVIRONMENT = {"OPENSTREAM_RETENTION_MS": "20000", "OPENSTREAM_LOG_LEVEL": "info"}
#: What a person's browser would put in for Grafana's variables.
VARIABLES = {"$topic": ".*", "$group": ".*", "$node": ".*", "$__rate_interval": "30s"}
ONE_TELLS = "openstream_(stream_length|unpersisted_.*|group_(lag|pending|consumers).*)"


def test_promtool_accepts_the_configuration_the_rules_and_their_tests() -> None:
    promtool = program("promtool")
    assert "SUCCESS" in run(promtool, "check", "config", "prometheus.yml", cwd=PROMETHEUS)
    assert "SUCCESS" in run(promtool, "check", "rules", "rules.yml", cwd=PROMETHEUS)
    assert "SUCCESS" in run(promtool, "test", "rules", "rules_test.yml", cwd=PROMETHEUS)


class Load:
    """Producers, a group that keeps up, one that is slow, and one rejection, until told to stop."""

    def __init__(self, cluster: Cluster) -> None:
        self._clients = [Client(url, cluster.token()) for url in cluster.urls]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.trouble: list[BaseException] = []
        self.rounds = 0

    def __enter__(self) -> Load:
        first = self._clients[0]
        assert first.request("PUT", f"/v1/topics/{TOPIC}", {"partitions": PARTITIONS}).status == 201
        assert first.request("PUT", "/v1/topics/tiny", {"partitions": 1, "max_stream_len": 1}).status == 201
        for group in ("fast", "slow"):
            assert first.post(f"/v1/topics/{TOPIC}/groups", {"group": group, "start_id": "0-0"}).status == 201
        assert first.produce(TOPIC, [0]).status == 200
        assert first.post(f"/v1/topics/{TOPIC}/replays", {"target_topic": "copy"}).status == 202
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self.trouble, self.trouble

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for client in self._clients:
                    self._round(client)
                self.rounds += 1
        except BaseException as error:
            self.trouble.append(error)

    def _round(self, client: Client) -> None:
        groups = f"/v1/topics/{TOPIC}/groups"
        assert client.produce(TOPIC, [{"n": n} for n in range(50)], keys=[f"k{n}" for n in range(50)]).status == 200
        client.produce("tiny", [1])  # refused once it is as long as it may be
        waiting = {"events": [{"event_type": "test", "payload": 1}], "ack": "persisted"}
        assert client.post(f"/v1/topics/{TOPIC}/events", waiting).status == 200
        events = client.post(f"{groups}/fast/read", {"consumer": "c", "count": 500, "block_ms": 0}).json["events"]
        items = [{"partition": one["partition"], "redis_ids": [one["redis_id"]]} for one in events]
        if items:
            assert client.post(f"{groups}/fast/ack", {"items": items}).status == 200
        client.post(f"{groups}/slow/read", {"consumer": "c", "count": 1, "block_ms": 0})
        client.post(f"{groups}/slow/claim", {"consumer": "d", "min_idle_ms": 0, "count": 1})


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("servers") / "data", ephemeral=True) as servers:
        with redis_client(servers.redis_url) as client:
            client.config_set("maxmemory", "1gb")
        yield servers


@pytest.fixture(scope="module")
def cluster(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(servers, tmp_path_factory.mktemp("nodes"), nodes=3, environment=ENVIRONMENT) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus on ops/'s own configuration, addresses exchanged, after half a minute of load, which goes on."""
    folder, port = tmp_path_factory.mktemp("prometheus"), ports.pick(HOST)
    shutil.copy(PROMETHEUS / "rules.yml", folder)
    config = (PROMETHEUS / "prometheus.yml").read_text()
    for number, url in enumerate(cluster.urls):
        config = config.replace(f"node-{number + 1}:8000", url.removeprefix("http://"))
    (folder / "prometheus.yml").write_text(config.replace("localhost:9090", f"{HOST}:{port}"))
    command = [
        program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={HOST}:{port}", "--enable-feature=exemplar-storage",
    ]  # fmt: skip
    there = Prometheus(f"http://{HOST}:{port}")
    with Load(cluster) as load, running(command, folder / "log", there.is_ready):
        wait_for(
            lambda: bool(load.trouble) or len(there.query("openstream_nodes_alive offset 30s")) > 0,
            "there is data from half a minute ago",
            90,
        )
        assert not load.trouble
        yield there


def test_every_node_is_scraped_and_what_it_says_is_clean(cluster: Cluster, prometheus: Prometheus) -> None:
    up = {one["metric"]["instance"]: one["value"][1] for one in prometheus.query('up{job="openstream"}')}
    assert up == {url.removeprefix("http://"): "1" for url in cluster.urls}
    for number in range(3):
        body = cluster.request(number, "GET", "/metrics")[1].decode()
        said = run(program("promtool"), "check", "metrics", text=body)
        assert said.strip() == ""


def test_every_query_of_every_panel_returns_data(prometheus: Prometheus) -> None:
    empty = []
    for dashboard, title, query in panels():
        expr = query
        for name, value in VARIABLES.items():
            expr = expr.replace(name, value)
        assert "$" not in expr, query
        if not prometheus.query(expr):
            empty.append(f"{dashboard} / {title}: {expr}")
    assert empty == []


def test_every_rule_is_evaluated_without_an_error(prometheus: Prometheus) -> None:
    declared = load(PROMETHEUS / "rules.yml")["groups"]
    found = {rule["name"]: rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]}
    assert set(found) == {rule["alert"] for group in declared for rule in group["rules"]}
    assert {
        name: (rule["health"], rule.get("lastError")) for name, rule in found.items() if rule["health"] != "ok"
    } == {}


def test_each_series_of_the_cluster_comes_from_one_node_and_the_sum_is_what_redis_has(
    servers: EmbeddedServers, prometheus: Prometheus
) -> None:
    def settled() -> bool:
        doubled = prometheus.query(f"count by (__name__, topic, group, partition) ({{__name__=~'{ONE_TELLS}'}}) > 1")
        return not doubled and len(prometheus.query("openstream_redis_memory_used_bytes")) == 1

    wait_for(settled, "each series is told by one node", 20)
    told = {int(one["metric"]["partition"]) for one in prometheus.query(f'openstream_stream_length{{topic="{TOPIC}"}}')}
    assert told == set(range(PARTITIONS))

    def same() -> bool:
        (total,) = prometheus.query(f'sum(openstream_stream_length{{topic="{TOPIC}"}})')
        real = sum(lengths(servers.redis_url, TOPIC, PARTITIONS))
        return abs(float(total["value"][1]) - real) <= 0.5 * real + 500  # it is a few seconds old, and events come

    wait_for(same, "the sum over the nodes is what Redis has", 20)
    (held,) = prometheus.query("sum(openstream_partitions_held)")
    (streams,) = prometheus.query("count(openstream_stream_length)")
    assert held["value"][1] == streams["value"][1]


def test_a_slow_group_is_behind_and_a_fast_one_is_not(prometheus: Prometheus) -> None:
    lag = {
        one["metric"]["group"]: float(one["value"][1])
        for one in prometheus.query("max by (group) (openstream_group_lag_seconds)")
    }
    assert lag["fast"] < 5 < 10 < lag["slow"]


def test_delays_have_exemplars_that_name_an_event(prometheus: Prometheus) -> None:
    found = prometheus.ask(
        "query_exemplars",
        query="openstream_persist_delay_seconds_bucket",
        start=str(time.time() - 120),
        end=str(time.time()),
    )
    labels = [exemplar["labels"] for series in found for exemplar in series["exemplars"]]
    assert labels
    assert all(re.fullmatch(r"\d+-\d+", one["redis_id"]) for one in labels)
