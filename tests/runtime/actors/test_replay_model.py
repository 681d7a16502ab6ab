"""Replays under random trouble: whatever order it comes in, the target has each event once when the replay is done."""

from __future__ import annotations

from typing import Literal

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openstream_runtime.domain.replays import ReplayState
from support.actors import Rig, make_world, run_virtual
from support.replaying import ask, check_once, ended, replaying, two_topics

Act = Literal["flush", "restart", "redis away", "redis back", "postgres away", "postgres back", "lost", "kept", "move"]
ACTS: list[Act] = [
    "flush", "restart", "redis away", "redis back", "postgres away", "postgres back", "lost", "kept", "move", "move",
]  # fmt: skip
COUNT = 80


class Sea:
    """Two nodes of which one replays at a time, and the trouble around them."""

    def __init__(self, rate: float | None, source: int, target: int) -> None:
        self.rigs: list[Rig] = [make_world("a", lease_ms=2_000)]
        self.rigs.append(self.rigs[0].node("b", lease_ms=2_000))
        self.rate, self.source, self.target = rate, source, target

    async def sail(self, steps: list[tuple[float, Act]]) -> None:
        rig = self.rigs[0]
        _, copy = await two_topics(rig, COUNT, source=self.source, target=self.target)
        replay = await ask(rig, rate_per_s=self.rate)
        rest = list(steps)
        turn = 0
        while rest:
            async with replaying(self.rigs[turn % 2], target=copy):
                while rest:
                    pause, act = rest.pop(0)
                    await anyio.sleep(pause)
                    if act == "move":
                        break
                    self.do(act)
                rig.redis.unavailable = rig.store.trouble.unavailable = False  # so that a stop comes to its end
            turn += 1
        async with replaying(self.rigs[turn % 2], target=copy):
            done = await ended(rig, replay, ReplayState.DONE)
        assert (done.copied, done.total) == (COUNT, COUNT)
        check_once(rig, copy, replay, range(COUNT))
        written = [count for _, count in rig.store.replays.written]
        assert written == sorted(written)

    def do(self, act: Act) -> None:
        rig = self.rigs[0]
        match act:
            case "flush":
                rig.redis.flush()
            case "restart":
                rig.redis.restart()
            case "redis away" | "redis back":
                rig.redis.unavailable = act == "redis away"
            case "postgres away" | "postgres back":
                rig.store.trouble.unavailable = act == "postgres away"
            case "lost" | "kept":
                rig.redis.lose_answer("append", kept=act == "kept")
            case "move":
                raise AssertionError("moving is done outside")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rate=st.sampled_from([None, 8.0, 40.0]),
    source=st.integers(1, 3),
    target=st.integers(1, 3),
    steps=st.lists(st.tuples(st.floats(0, 4), st.sampled_from(ACTS)), max_size=12),
)
def test_each_event_is_in_the_target_once(
    rate: float | None, source: int, target: int, steps: list[tuple[float, Act]]
) -> None:
    run_virtual(Sea(rate, source, target).sail, steps)
