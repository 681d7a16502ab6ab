"""Where a scenario plays: servers of its own, nodes, a load with a seed, links that can be troubled, and the judge.

A scenario names one fault. Its run is: a load that has begun, the fault, the load for a while more, the drain, and the
verdict of the checker over everything that clients, PostgreSQL, Redis and the nodes' counters tell.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from openstream_ops.servers import EmbeddedServers
from support.checks import Report, check
from support.client import Client
from support.cluster import Cluster
from support.dumps import dump_postgres, dump_redis
from support.evidence import Evidence, Recovery, recovery_of
from support.history import History, Outcome, parse_id
from support.journal import Journal, merge, read_back
from support.load import Plan, run_load
from support.nodes import Nodes
from support.partitions import count_stored, cursors, last_entries
from support.tcp_proxy import TcpProxy, tcp_proxy
from support.witness import Witness

Result = TypeVar("Result")

TOPIC, GROUPS, PARTITIONS = "chaos", ("g", "h"), 8
LEASE_S, IDLE_S, RETENTION_S = 1.5, 2.0, 2.0
#: Seconds of load before the fault and after its end.
BEFORE_S, AFTER_S = 1.5, 2.5
#: A scenario that is not through by then will never be.
DEADLINE_S, SETTLED_S = 100.0, 30.0
RATE = 1_000
TESTS = Path(__file__).parents[1]
OUT = TESTS / "chaos" / "out"
ENVIRONMENT = {
    "OPENSTREAM_LEASE_MS": str(int(LEASE_S * 1000)),
    "OPENSTREAM_CLAIM_IDLE_MS": str(int(IDLE_S * 1000)),
    # Short, so that trims go on beside everything else, and groups that fall behind are served from PostgreSQL.
    "OPENSTREAM_RETENTION_MS": str(int(RETENTION_S * 1000)),
    "OPENSTREAM_LOG_LEVEL": "info",
    "PYTHONPATH": str(TESTS),
}
NODE = (sys.executable, "-m", "openstream_ops", "node")


@dataclass(slots=True)
class Stage:
    """What a fault may touch."""

    servers: EmbeddedServers
    cluster: Cluster
    #: The way of each node to Redis and to PostgreSQL; empty unless the scenario asks for links.
    redis_links: Sequence[TcpProxy]
    postgres_links: Sequence[TcpProxy]
    history: History
    chance: random.Random
    folder: Path
    #: Journals of clients in processes of their own.
    journals: list[Path] = field(default_factory=list)
    #: Signs that the fault was one, and that did not come.
    missing: list[str] = field(default_factory=list)
    #: When the fault had ended; None: not before its function did.
    healed: float | None = None

    def note(self, text: str) -> None:
        self.history.note(text)
        print(f"[{self.history.topic}] {time.monotonic() - self.history.began:6.1f} s: {text}", flush=True)

    def over(self) -> None:
        """The fault has ended here, whatever its function still waits for: from now on recovery is measured."""
        self.healed = time.monotonic()
        self.note("the fault is over")

    async def blocking(self, work: Callable[..., Result], *args: Any) -> Result:
        """What takes time or waits, beside the load."""
        return await to_thread.run_sync(lambda: work(*args))

    def a_node(self) -> int:
        return self.chance.randrange(len(self.cluster.urls))

    def client(self, number: int) -> Client:
        return Client(self.cluster.url(number), self.cluster.token(number=number))


Fault = Callable[[Stage], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault, and what it may cost."""

    #: As the table calls it.
    name: str
    fault: Fault
    nodes: int = 2
    #: Nodes reach Redis and PostgreSQL through proxies.
    links: bool = False
    ack: str = "appended"
    #: No fault at all: every event comes exactly once, and counters are exact.
    calm: bool = False
    #: Redis forgets all it had: acknowledgements and what was delivered too.
    emptied: bool = False
    #: Whether producers are left in the dark: True: some must be, else the fault was none; False: none may be.
    unknowns: bool | None = None
    valkey: Mapping[str, str] = field(default_factory=dict)
    #: What is wrong inside of the nodes, as `chaos.odd_node` takes it; `{folder}` is the run's own.
    oddity: str | None = None
    deadline_s: float = DEADLINE_S
    settled_s: float = SETTLED_S


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario that has been played."""

    scenario: Scenario
    seed: int
    report: Report
    recovery: Recovery
    drained: bool
    #: Reads and acknowledgements.
    requests: int
    missing: Sequence[str] = ()

    @property
    def excused(self) -> set[str]:
        """A Redis that forgot what was delivered hands it out again as if for the first time."""
        return {"C8 order delivered"} if self.scenario.emptied else set()

    @property
    def wrong(self) -> list[str]:
        """What must not be, in words; empty when all promises were kept."""
        found = [*sorted(self.report.broken - self.excused), *self.missing]
        unknown = self.report.figures["unknown"]
        if self.scenario.unknowns is True and not unknown:
            found.append("no outcome was unknown: the fault did nothing")
        if self.scenario.unknowns is False and unknown:
            found.append(f"{unknown} outcomes are unknown")
        if refused := self.report.figures["fail"]:
            found.append(f"{refused} events were refused to the last")
        if not self.drained:
            found.append("not everything came to every group in time")
        return found


async def play(scenario: Scenario, seed: int, folder: Path, *, keep: bool = True) -> Played:
    """Play a scenario to its end. On a bad end its journals and logs are kept in `out/`, unless that was wanted."""
    with Journal(folder / "clients.jsonl") as journal:
        async with _set_up(scenario, seed, folder, journal) as stage:
            played = await _play(scenario, seed, stage)
    if keep and played.wrong:
        _keep(folder, OUT / f"{scenario.name} {seed}".replace(" ", "-"))
    return played


@asynccontextmanager
async def _set_up(scenario: Scenario, seed: int, folder: Path, journal: Journal) -> AsyncIterator[Stage]:
    servers = EmbeddedServers(folder / "servers", ephemeral=True, valkey_options=scenario.valkey)
    async with AsyncExitStack() as stack:
        await to_thread.run_sync(servers.start)
        stack.push_async_callback(to_thread.run_sync, servers.stop)
        each: list[dict[str, str]] = []
        links: list[tuple[TcpProxy, TcpProxy]] = []
        for _ in range(scenario.nodes if scenario.links else 0):
            redis, postgres = servers.valkey.port, servers.postgres.port
            to_redis = await stack.enter_async_context(tcp_proxy("127.0.0.1", redis))
            to_postgres = await stack.enter_async_context(tcp_proxy("127.0.0.1", postgres))
            links.append((to_redis, to_postgres))
            each.append(
                {
                    "REDIS_URL": servers.redis_url.replace(f":{redis}/", f":{to_redis.port}/"),
                    "DATABASE_URL": servers.database_url.replace(f":{postgres}/", f":{to_postgres.port}/"),
                }
            )
        command = NODE
        if scenario.oddity is not None:
            command = (sys.executable, "-m", "chaos.odd_node", scenario.oddity.format(folder=folder))
        cluster = Cluster(servers, folder, nodes=scenario.nodes, environment=ENVIRONMENT, each=each, command=command)
        await to_thread.run_sync(cluster.__enter__)
        stack.push_async_callback(to_thread.run_sync, cluster.__exit__, None, None, None)
        history = History(TOPIC, recorder=journal)
        yield Stage(
            servers, cluster, [one for one, _ in links], [one for _, one in links], history, random.Random(seed), folder
        )


async def _play(scenario: Scenario, seed: int, stage: Stage) -> Played:
    history, servers = stage.history, stage.servers
    began = [stage.cluster.pid(number) for number in range(scenario.nodes)]
    witness = await stage.blocking(Witness, servers.redis_url, servers.database_url, TOPIC, PARTITIONS)
    plan = Plan(
        events=10**9, producers=12, consumers=3, groups=GROUPS, partitions=PARTITIONS, batch=10, keys=48, rate=RATE,
        ack=scenario.ack, claim_every_s=None if scenario.calm else 1.0, claim_idle_ms=int(IDLE_S * 1000),
        deadline_s=scenario.deadline_s, quiet_s=2 * IDLE_S, seed=seed, while_during=True,
    )  # fmt: skip

    async def during() -> None:
        history.note(f"{scenario.name}, seed {seed}")
        await anyio.sleep(BEFORE_S)
        await scenario.fault(stage)
        if stage.healed is None:
            stage.over()
        await anyio.sleep(AFTER_S)

    token = await stage.blocking(lambda: stage.cluster.token(ttl_s=86_400))
    with witness.looking():
        async with Nodes(stage.cluster.urls, token, seed=seed) as nodes:
            drained = await run_load(history, nodes, plan, during)
        merge(history, read_back(TOPIC, stage.journals))
        await stage.blocking(_settle, stage, scenario.settled_s)
    lived = [number for number in range(scenario.nodes) if stage.cluster.is_running(number)]
    whole = len(lived) == scenario.nodes and [stage.cluster.pid(number) for number in lived] == began
    evidence = Evidence(
        await stage.blocking(witness.moves),
        [] if scenario.emptied else witness.looks,
        # What Redis lost and somebody sent again was appended twice, and is counted so.
        await stage.blocking(_counted, stage) if whole and not scenario.emptied else None,
        healed=None if scenario.calm else stage.healed,
    )

    def judge() -> Report:
        redis, postgres = dump_redis(servers.redis_url, TOPIC, PARTITIONS), dump_postgres(servers.database_url, TOPIC)
        return check(
            history, redis, postgres, groups=GROUPS, calm=scenario.calm, redis_lost_acks=scenario.emptied,
            idle_s=IDLE_S, evidence=evidence,
        )  # fmt: skip

    report = await stage.blocking(judge)
    print(report, flush=True)
    requests = len(history.reads) + len(history.acks)
    recovery = recovery_of(history, evidence, GROUPS)
    return Played(scenario, seed, report, recovery, drained, requests, stage.missing)


def _settle(stage: Stage, within_s: float) -> None:
    """Wait until PostgreSQL has all that is in Redis or was answered. Not for ever: the checker says the rest."""
    wanted = sum(1 for _ in stage.history.with_outcome(Outcome.OK))
    redis_url, database_url = stage.servers.redis_url, stage.servers.database_url
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        reached = cursors(database_url, TOPIC)
        ends = last_entries(redis_url, TOPIC, PARTITIONS)
        behind = [p for p, end in ends.items() if parse_id(end) > reached.get(p, (0, 0))]
        if not behind and count_stored(database_url, TOPIC) >= wanted:
            return
        time.sleep(0.3)


def _counted(stage: Stage) -> tuple[int, int]:
    """What the nodes counted; a commit is counted a moment after it can be seen."""
    rows, deadline = count_stored(stage.servers.database_url, TOPIC), time.monotonic() + 5
    while True:
        clients = [Client(url) for url in stage.cluster.urls]
        appended, persisted = (
            int(sum(client.metric(name, topic=TOPIC) for client in clients))
            for name in ("openstream_ingest_events_total", "openstream_persisted_total")
        )
        if persisted >= rows or time.monotonic() > deadline:
            return appended, persisted
        time.sleep(0.2)


def _keep(folder: Path, where: Path) -> None:
    """Journals and logs of a run that went wrong."""
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    for path in [*folder.glob("*.jsonl"), *folder.glob("*.log")]:
        shutil.copy(path, where)
