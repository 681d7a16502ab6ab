"""The part of the gateway about events that are handed out more than once, and what is set on groups for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from openstream_runtime.domain.dead_letters import Redrive
from openstream_runtime.domain.history import Place
from openstream_runtime.domain.positions import Position
from openstream_runtime.domain.topics import Group, GroupSettings
from openstream_runtime.gateway.dead_letters import DeadLetterDesk, LetterPage, Redriven
from openstream_runtime.gateway.groups import Consuming
from openstream_runtime.gateway.holding import Holding
from openstream_runtime.ports.redelivery import GivenBack


class Redelivering:
    """See Gateway."""

    _consuming: Consuming
    _holding: Holding
    _letters: DeadLetterDesk

    async def group(self, topic: str, group: str) -> Group:
        """A group and what is set on it."""
        return await self._consuming.find(topic, group)

    async def alter_group(self, topic: str, group: str, change: Callable[[GroupSettings], GroupSettings]) -> Group:
        """Change what is set on a group."""
        return await self._consuming.alter(topic, group, change)

    async def nack(
        self, topic: str, group: str, items: dict[int, list[Position]], *, consumer: str | None, delay_ms: int
    ) -> GivenBack:
        """Give back what is held, by that consumer or by anyone; handed out again after the delay, or dead."""
        return await self._holding.nack(topic, group, items, consumer=consumer, delay_ms=delay_ms)

    async def extend(
        self, topic: str, group: str, consumer: str, items: dict[int, list[Position]]
    ) -> Mapping[int, Sequence[Position]]:
        """Let the idle time of what a consumer holds begin anew; what it does not hold comes back."""
        return await self._holding.extend(topic, group, consumer, items)

    async def dead_letters(self, topic: str, group: str, *, limit: int, at: Place | None = None) -> LetterPage:
        """What a group gave up on."""
        return await self._letters.page(topic, group, limit=limit, at=at)

    async def redrive(
        self, topic: str, group: str, *, to: Redrive, ids: Sequence[Place] | None, at: Place | None = None
    ) -> Redriven:
        """Send dead letters back, each once: some, or all from a place on. Raises Overloaded, Unavailable: the rest may
        be asked for again."""
        return await self._letters.redrive(topic, group, to=to, ids=ids, at=at)
