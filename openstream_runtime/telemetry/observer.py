"""What the supervision tree tells, as log lines and as a count of restarts."""

from __future__ import annotations

from typing import Protocol

import structlog

from supervisors.errors import flatten
from supervisors.events import Exited, GaveUp, Removed, Restarting, Started, Stopped, TreeEvent

_log = structlog.get_logger(__name__)

# Supervisors whose children come and go with topics and partitions: their children's names are no label.
_DYNAMIC = frozenset({"partitions", "ingestion", "groups"})
# Of those children, the roles worth telling apart.
_ROLES = frozenset({"persister", "reaper"})


class CountsRestarts(Protocol):
    def actor_started(self, actor: str) -> None: ...
    def actor_restarted(self, actor: str) -> None: ...


class TreeObserver:
    """Listens to the tree of one node; give it to the root supervisor."""

    def __init__(self, metrics: CountsRestarts) -> None:
        self._metrics = metrics

    def __call__(self, event: TreeEvent, /) -> None:
        log = _log.bind(actor=event.path, incarnation=event.incarnation)
        match event:
            case Started(incarnation=1):
                self._metrics.actor_started(kind_of(event.path))
                log.debug("actor started")
            case Started():
                log.info("actor runs again")
            case Exited(error=None):
                log.info("actor ended")
            case Exited(error=error):
                log.error("actor crashed", error=_line(error), exc_info=error)
            case Stopped(error=None):
                log.debug("actor stopped")
            case Stopped(error=error):
                log.warning("actor failed while it stopped", error=_line(error), exc_info=error)
            case Restarting(error=error, delay=delay):
                self._metrics.actor_restarted(kind_of(event.path))
                log.warning("actor will be started again", delay_s=round(delay, 3), error=_line(error))
            case GaveUp(child=child, error=error):
                log.error("supervisor gave up: its restart budget is spent", child=child, error=_line(error))
            case Removed():
                log.debug("actor removed")
            case _:
                log.info("tree event", kind=type(event).__name__)


def kind_of(path: str) -> str:
    """The kind of the actor at a path: `node/partitions/orders/3/reaper` is a `node/partitions/*/reaper`.

    There are as many kinds as the tree has places in its source, however many topics there are.
    """
    steps = path.split("/")
    for depth, step in enumerate(steps[:-1]):
        if step in _DYNAMIC:
            role = steps[-1:] if steps[-1] in _ROLES and len(steps) > depth + 2 else []
            return "/".join([*steps[: depth + 1], "*", *role])
    return path


def _line(error: BaseException | None) -> str | None:
    return None if error is None else flatten(error)
