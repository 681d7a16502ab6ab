"""The production loop, in real time: one pass over everything that touches the loop."""

from functools import partial

import anyio
import pytest

from supervisors import Backoff, ChildSpec, Context, Mailbox, Supervisor, run

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": True}


async def test_a_tree_works_on_uvloop() -> None:
    box = Mailbox[str, int](10, size=len)

    class Counter:
        async def run(self, ctx: Context) -> None:
            ctx.ready()
            with ctx.interruptible():
                while True:
                    envelope = await box.receive()
                    if envelope.message == "crash":
                        raise ValueError
                    envelope.answer(len(envelope.message))

    pool = Supervisor(stop_together=True, backoff=Backoff(base=0))
    stop = anyio.Event()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(run, Supervisor([ChildSpec(id="pool", actor=lambda: pool)]), stop=stop))
            await pool.add(ChildSpec(id="counter", actor=Counter, grace=5.0))
            assert await box.call("four") == 4
            await box.cast("crash")
            assert await box.call("three") == 5
            await pool.add(ChildSpec(id="other", actor=Counter, grace=5.0))
            await pool.remove("counter")
            assert await box.call("x") == 1
            stop.set()
