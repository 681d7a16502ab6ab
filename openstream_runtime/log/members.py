"""Members: who lives, by heartbeats in one sorted set."""

from __future__ import annotations

import msgspec

from openstream_runtime.log import keys, scripts
from openstream_runtime.log.errors import answer
from openstream_runtime.log.lane import Lane
from openstream_runtime.ports.nodes import NodeInfo


class RedisMembers:
    """A beat may be lost and sent again: it says the same thing."""

    def __init__(self, reads: Lane) -> None:
        self._reads = reads

    async def beat(self, node: NodeInfo, ttl_ms: int) -> list[NodeInfo]:
        said = await self._reads.run(
            scripts.MEMBERS_BEAT, [keys.NODES, keys.NODES_INFO], [node.id, ttl_ms, msgspec.json.encode(node)]
        )
        return sorted(filter(None, map(_node, said)), key=lambda one: one.id)

    async def leave(self, node_id: str) -> None:
        for reply in await self._reads.call([(b"ZREM", keys.NODES, node_id), (b"HDEL", keys.NODES_INFO, node_id)]):
            answer(reply)


def _node(raw: bytes) -> NodeInfo | None:
    try:
        return msgspec.json.decode(raw, type=NodeInfo)
    except msgspec.DecodeError:
        return None  # a later version that says it otherwise
