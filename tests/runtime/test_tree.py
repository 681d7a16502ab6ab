"""The whole tree of a node on fakes: who is restarted, when the node gives up, and how long a stop takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from openstream_runtime.actors.store_writer import store_mailbox
from openstream_runtime.domain.positions import TopicPartition
from openstream_runtime.domain.topics import Topic
from openstream_runtime.node import MARGIN
from openstream_runtime.settings import Settings
from openstream_runtime.tree import partition_spec
from supervisors import Restarting, RestartLimitExceeded, State
from support.actors import event, eventually, make_world, virtual_backend
from support.tree_node import TreeNode, living

pytestmark = pytest.mark.anyio
NAMES = [
    "metrics", "membership", "catalog", "tailer", "store-writer", "partitions", "assigner", "janitor", "checkpointer",
    "replayer", "ingestion", "confirmer", "auditor", "groups", "broadcaster", "http",
]  # fmt: skip


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual_backend(request.param)


def hopeless(method: Callable[..., Any], when: Callable[[], bool] = lambda: True) -> Callable[..., Any]:
    async def broken(*arguments: Any, **options: Any) -> Any:
        if when():
            raise RuntimeError("hopeless")
        return await method(*arguments, **options)

    return broken


async def test_the_tree_starts_in_order_and_serves_from_end_to_end() -> None:
    node = TreeNode(make_world(retention_ms=0))
    async with living(node):
        assert [child.id for child in node.tree.snapshot().children] == NAMES
        assert all(child.state is State.RUNNING for child in node.tree.snapshot().children)
        produced = await node.gateway.produce("orders", [event(n, key=str(n)) for n in range(50)], partitions=4)
        assert len(produced.results) == 50
        await node.gateway.create_group("orders", "g", start_id="0-0", start_ms=None)
        await eventually(lambda: len(node.held()) == 4)
        topic = await node.gateway.topic("orders")
        await eventually(lambda: sum(len(node.rig.stored(topic, n)) for n in range(4)) == 50)
        assert node.samples
        assert {check.name: check.ok for check in node.gateway.readiness()} == {
            "redis": True, "postgres": True, "member": True, "not draining": True,
        }  # fmt: skip
    assert node.rig.redis.leases == {}
    assert node.rig.redis.nodes == {}


async def test_an_actor_that_crashes_is_restarted_and_the_others_do_not_notice() -> None:
    node = TreeNode(make_world())
    async with living(node):
        topic = await node.rig.topic(partitions=2)
        await eventually(lambda: len(node.held()) == 2)
        bugs = [True]
        real = node.rig.log.events.read_after

        async def read_after(at: TopicPartition, *arguments: Any, **options: Any) -> Any:
            if bugs and at.partition == 0:
                bugs.pop()
                raise RuntimeError("once")
            return await real(at, *arguments, **options)

        node.rig.log.events.read_after = read_after  # type: ignore[method-assign]
        await eventually(lambda: not bugs)
        await node.rig.append(topic, 1)
        await eventually(lambda: node.rig.stored(topic) == ["1"], within=3)
        restarts = [one.path for one in node.rig.events if isinstance(one, Restarting)]
        assert restarts == ["node/partitions/orders/0/persister"]
        found = node.tree.snapshot().find("partitions", "orders/0", "persister")
        assert found is not None
        assert (found.restarts, found.last_error) == (1, "RuntimeError: once")


@pytest.mark.parametrize("lifetime", [0.0, 1.0, 5.0])
async def test_one_hopeless_persister_takes_the_node_down_in_bounded_time(lifetime: float) -> None:
    node = TreeNode(make_world())
    real = node.rig.log.events.read_after

    async def read_after(at: TopicPartition, *arguments: Any, **options: Any) -> Any:
        if at.partition == 0:
            await anyio.sleep(lifetime)
            raise RuntimeError("hopeless")
        return await real(at, *arguments, **options)

    node.rig.log.events.read_after = read_after  # type: ignore[method-assign]
    await node.rig.topic(partitions=3)
    began = anyio.current_time()
    with pytest.raises(RestartLimitExceeded) as gave_up:
        await node.live()
    assert anyio.current_time() - began < {0.0: 40, 1.0: 100, 5.0: 300}[lifetime]
    assert anyio.current_time() - began > 5  # not for trouble that is over in a moment
    assert "hopeless" in str(gave_up.value)
    assert node.rig.redis.leases == {}


async def test_trouble_that_is_over_in_a_few_seconds_ends_no_node() -> None:
    node = TreeNode(make_world())
    broken = [True]
    events = node.rig.log.events
    events.read_after = hopeless(events.read_after, lambda: bool(broken))  # type: ignore[method-assign]
    async with living(node):
        topic = await node.rig.topic(partitions=8)
        await anyio.sleep(3)
        broken.clear()
        await eventually(lambda: len(node.held()) == 8, within=15)
        await node.rig.append(topic, 1)
        await eventually(lambda: node.rig.stored(topic) == ["1"], within=15)


@pytest.mark.parametrize(
    ("port", "method"),
    [("members", "beat"), ("tail", "wait"), ("catalog", "version"), ("events", "stats")],
)
async def test_an_actor_below_the_root_that_keeps_raising_takes_the_node_down_soon(port: str, method: str) -> None:
    node = TreeNode(make_world())
    owner = {
        "members": node.rig.log.members, "tail": node.rig.log.tail, "events": node.rig.log.events,
        "catalog": node.rig.store.catalog,
    }[port]  # fmt: skip
    setattr(owner, method, hopeless(getattr(owner, method)))
    await node.rig.topic()
    with anyio.fail_after(60), pytest.raises(RestartLimitExceeded, match="hopeless"):
        await node.live()


async def test_a_partitions_supervisor_that_is_restarted_gets_its_children_back_at_once() -> None:
    node = TreeNode(make_world())
    async with living(node):
        await node.rig.topic(partitions=4)
        await eventually(lambda: len(node.held()) == 4)
        events = node.rig.log.events
        broken = [True]
        events.read_after = hopeless(events.read_after, lambda: bool(broken))  # type: ignore[method-assign]
        await eventually(lambda: node.lives("node/partitions") == 1, within=30)
        broken.clear()
        await eventually(lambda: len(node.held()) == 4, within=2.5)


async def test_three_nodes_share_the_partitions_and_a_stopped_one_hands_over_at_once() -> None:
    nodes = [TreeNode(make_world("a"))]
    nodes += [TreeNode(nodes[0].rig.node(name)) for name in ("b", "c")]
    topic = await nodes[0].rig.topic(partitions=24)
    everything = set(topic.all_partitions())
    async with living(*nodes):
        await eventually(lambda: set.union(*(node.held() for node in nodes)) == everything, within=20)
        await eventually(lambda: sum(len(node.held()) for node in nodes) == 24, within=10)
        assert [len(node.held()) for node in nodes] == [8, 8, 8]
        nodes[2].gateway.begin_draining()
        began = anyio.current_time()
        nodes[2].stop.set()
        await eventually(lambda: nodes[0].held() | nodes[1].held() == everything, within=5)
        assert anyio.current_time() - began < 1.5
        await eventually(lambda: [len(node.held()) for node in nodes] == [12, 12, 0], within=5)


async def test_a_stop_is_quick_when_everything_answers() -> None:
    node = TreeNode(make_world())
    async with living(node):
        await node.rig.topic(partitions=16)
        await eventually(lambda: len(node.held()) == 16)
        began = anyio.current_time()
    assert anyio.current_time() - began < 2


@pytest.mark.parametrize("away", ["redis", "postgres", "both"])
async def test_a_stop_with_a_backend_away_stays_within_the_grace(away: str) -> None:
    node = TreeNode(make_world())
    async with living(node):
        await node.rig.topic(partitions=8)
        await eventually(lambda: len(node.held()) == 8)
        node.rig.redis.unavailable = away != "postgres"
        node.rig.store.trouble.unavailable = away != "redis"
        await anyio.sleep(3)
        began = anyio.current_time()
    assert anyio.current_time() - began < 8


async def test_a_stop_with_backends_that_do_not_answer_at_all_ends_by_the_graces() -> None:
    node = TreeNode(make_world())
    async with living(node):
        topic = await node.rig.topic(partitions=8)
        await eventually(lambda: len(node.held()) == 8)
        for operation in ("append", "read", "read_after", "mark_persisted", "renew", "release_lease", "beat", "leave"):
            node.rig.redis.stall(operation)
        for operation in ("wait", "ring", "stats", "acquire", "edges", "verify", "release", "release_idle"):
            node.rig.redis.stall(operation)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(_quietly, node.gateway.produce, "orders", [event()]))
            await anyio.sleep(2)
            began = anyio.current_time()
            node.gateway.begin_draining()
            node.stop.set()
            await eventually(lambda: node.tree.snapshot().state is State.STOPPED, within=20)
            assert anyio.current_time() - began < 8 + MARGIN
            tasks.cancel_scope.cancel()
    assert topic.partitions == 8


async def _quietly(call: Callable[..., Any], *arguments: Any) -> None:
    try:
        await call(*arguments)
    except Exception as error:
        assert str(error)  # noqa: PT017 (whatever it hears: it is about the stop)


async def test_the_graces_of_the_whole_tree_fit_into_what_a_stop_may_take() -> None:
    limits = Settings.from_env(
        {
            "REDIS_URL": "redis://x",
            "DATABASE_URL": "postgresql://x",
            "AUTH_JWT_SECRET": "Zb3hQ9vJx0sW7kLm2pRt5uYc8dFg1aHe",
        }
    )
    node = TreeNode(make_world(grace_ms=limits.grace_ms))
    below = max(
        spec.grace
        for spec in partition_spec(node.rig.world, Topic(1, "t", 1), TopicPartition("t", 0), store_mailbox())
        .actor()._specs  # type: ignore[attr-defined]
    )  # fmt: skip
    pools = [node.ingestors._grace, node.readers._grace]
    total = sum(spec.grace for spec in node.tree._specs) + below + sum(pools)
    release = 1.0  # what a persister takes beyond its grace
    assert total + release < limits.grace_ms / 1000 + MARGIN < 10
    doubled = TreeNode(make_world(grace_ms=2 * limits.grace_ms))
    assert sum(spec.grace for spec in doubled.tree._specs) > 1.5 * sum(spec.grace for spec in node.tree._specs)


async def test_waiting_reads_return_at_once_when_the_node_drains() -> None:
    node = TreeNode(make_world())
    async with living(node), anyio.create_task_group() as tasks:
        await node.rig.topic()
        await node.gateway.create_group("orders", "g", start_id="$", start_ms=None)
        answered: list[float] = []

        async def wait() -> None:
            handout = await node.gateway.read("orders", "g", "c", count=1, block_ms=60_000)
            assert handout.deliveries == ()
            answered.append(anyio.current_time())

        for _ in range(5):
            tasks.start_soon(wait)
        await anyio.sleep(1)
        drained = anyio.current_time()
        node.gateway.begin_draining()
        await eventually(lambda: len(answered) == 5, within=1)
        assert max(answered) - drained < 0.1
        assert not next(check for check in node.gateway.readiness() if check.name == "not draining").ok
