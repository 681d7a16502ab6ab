"""The end of a run: wait until PostgreSQL has all that was acknowledged, then hold the history against both stores."""

from __future__ import annotations

from support.checks import Report, check
from support.cluster import Servers
from support.dumps import dump_postgres, dump_redis
from support.history import History, Outcome
from support.load import Plan
from support.partitions import count_stored, wait_for

PERSISTED_S = 60.0


def verdict(
    servers: Servers, history: History, plan: Plan, *, calm: bool = False, redis_lost_acks: bool = False
) -> Report:
    """What the checker says, with these expectations of it (see `check`), once everything has come to rest."""
    wanted = sum(1 for _ in history.with_outcome(Outcome.OK))
    wait_for(
        lambda: count_stored(servers.database_url, history.topic) >= wanted,
        "PostgreSQL holds every acknowledged event",
        PERSISTED_S,
        every_s=0.3,
    )
    report = check(
        history,
        dump_redis(servers.redis_url, history.topic, plan.partitions),
        dump_postgres(servers.database_url, history.topic),
        groups=plan.groups,
        calm=calm,
        redis_lost_acks=redis_lost_acks,
    )
    print(report)
    return report
