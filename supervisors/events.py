"""What a tree tells about itself while it runs: how logs and metrics listen.

An observer is any callable that takes an event. It is called synchronously by whoever made the event happen, so it must
be quick; what it raises is logged and forgotten, because a listener must never hurt the tree.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

_log = logging.getLogger("supervisors")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEvent:
    """Something happened to the child at `path` (ids from the root, joined by `/`)."""

    path: str
    #: The child's lives are counted from 1; a start that failed was a life too.
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(TreeEvent):
    """The child said that it is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited(TreeEvent):
    """The child ended on its own: it returned (`error` is None), crashed, or did not start."""

    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(TreeEvent):
    """The child ended because it was asked to; `error` is what it raised on the way out, if anything."""

    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarting(TreeEvent):
    """The child, and whoever shares its fate, will be started again `delay` seconds after its end."""

    error: BaseException | None
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp(TreeEvent):
    """The supervisor at `path` has spent its restart budget on `child`; its parent decides now."""

    child: str
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed(TreeEvent):
    """The child is no longer part of the tree: it was removed, or was temporary and ended."""


class Observer(Protocol):
    """Listens to a tree."""

    def __call__(self, event: TreeEvent, /) -> None:
        """Take note of the event; be quick."""


def notify(observer: Observer | None, event: TreeEvent) -> None:
    """Tell the observer, and survive it."""
    if observer is None:
        return
    try:
        observer(event)
    except Exception:
        _log.exception("an observer of the supervision tree failed on %r", event)
