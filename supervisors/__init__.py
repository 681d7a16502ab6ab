"""Supervision for actors on anyio, after OTP. It knows tasks and failures, and nothing of events or HTTP.

A tour:

    class Ticker:                                        # an actor is anything with `run`
        async def run(self, ctx: Context) -> None:
            ctx.ready()                                  # my local state is good
            while not ctx.stopping.is_set():
                with ctx.interruptible():                # a request to stop may break into this block only
                    await anyio.sleep(1)

    tree = Supervisor(
        [
            ChildSpec(id="clock", actor=Ticker, grace=2.0),          # a factory: every life begins anew
            ChildSpec(id="pool", actor=lambda: pool),                # supervisors are actors, so trees nest
        ],
        strategy=Strategy.REST_FOR_ONE, max_restarts=3, within=30.0,
    )
    pool = Supervisor(stop_together=True)                # starts empty: `await pool.add(spec)`, `await pool.remove(id)`
    await run(tree, stop=event, observer=print)          # returns after an ordered stop, or raises RestartLimitExceeded

    mailbox: Mailbox[str, int] = Mailbox(1000, max_bytes=1 << 20, size=len)   # belongs to the tree, outlives its actor
    length = await mailbox.call("hello")   # answered by `for e in await mailbox.receive_all(): e.answer(…)`
    tree.snapshot().to_dict()                            # who runs, who backs off, and why
"""

from supervisors.backoff import Backoff
from supervisors.budget import RestartBudget
from supervisors.context import Context
from supervisors.envelope import Envelope
from supervisors.errors import (
    ActorGone,
    CallTimeout,
    DuplicateChild,
    MailboxClosed,
    MailboxError,
    MailboxFull,
    MessageTooLarge,
    NotRunning,
    RestartLimitExceeded,
    ReturnedBeforeReady,
    StartFailed,
    StartTimedOut,
    StrayCancellation,
    SupervisorError,
    UnknownChild,
    flatten,
)
from supervisors.events import Exited, GaveUp, Observer, Removed, Restarting, Started, Stopped, TreeEvent
from supervisors.mailbox import Mailbox, MailboxStatistics
from supervisors.root import Signal, run
from supervisors.snapshot import NodeSnapshot, State
from supervisors.spec import Actor, ChildSpec, Restart, Strategy
from supervisors.supervisor import Supervisor

__all__ = [
    "Actor",
    "ActorGone",
    "Backoff",
    "CallTimeout",
    "ChildSpec",
    "Context",
    "DuplicateChild",
    "Envelope",
    "Exited",
    "GaveUp",
    "Mailbox",
    "MailboxClosed",
    "MailboxError",
    "MailboxFull",
    "MailboxStatistics",
    "MessageTooLarge",
    "NodeSnapshot",
    "NotRunning",
    "Observer",
    "Removed",
    "Restart",
    "RestartBudget",
    "RestartLimitExceeded",
    "Restarting",
    "ReturnedBeforeReady",
    "Signal",
    "StartFailed",
    "StartTimedOut",
    "Started",
    "State",
    "Stopped",
    "Strategy",
    "StrayCancellation",
    "Supervisor",
    "SupervisorError",
    "TreeEvent",
    "UnknownChild",
    "flatten",
    "run",
]
