"""A context made by hand, as for testing an actor alone; and the root runner's edges."""

import anyio
import pytest

from supervisors import Context, RestartLimitExceeded, run

pytestmark = pytest.mark.anyio


async def test_an_actor_can_be_run_alone_with_a_context_made_by_hand() -> None:
    said: list[str] = []

    class Actor:
        async def run(self, ctx: Context) -> None:
            ctx.ready()
            with ctx.interruptible() as scope:
                await anyio.sleep_forever()
            said.append(f"{ctx.name} stops, interrupted: {scope.cancelled_caught}")

    ctx = Context("alone")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Actor().run, ctx)
        await ctx.started.wait()
        ctx.ask_to_stop()
        ctx.ask_to_stop()
    assert said == ["alone stops, interrupted: True"]


async def test_a_wait_that_is_over_is_forgotten_so_that_a_loop_of_waits_costs_no_memory() -> None:
    ctx = Context("loop")
    for _ in range(1000):
        with ctx.interruptible():
            await anyio.lowlevel.checkpoint()
    assert len(ctx._scopes) <= 1
    ctx.ask_to_stop()


async def test_several_waits_of_one_actor_end_together() -> None:
    ctx = Context("many")

    async def wait() -> None:
        with ctx.interruptible():
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        ctx.ask_to_stop()


async def test_any_actor_can_be_the_root_and_its_error_leaves_bare() -> None:
    class Root:
        async def run(self, ctx: Context) -> None:
            ctx.ready()
            raise RestartLimitExceeded("enough")

    with pytest.raises(RestartLimitExceeded, match="enough"):
        await run(Root(), stop=anyio.Event())
