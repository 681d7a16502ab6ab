"""Snapshot: the tree at one moment, as plain frozen data. Pure; the dashboard gets `to_dict()`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from supervisors.errors import flatten


class State(StrEnum):
    """Where a child is in its life."""

    #: It was begun and has not said that it is ready.
    STARTING = "starting"
    RUNNING = "running"
    #: It was asked to stop and has not ended.
    STOPPING = "stopping"
    #: It has ended and waits to be started again.
    BACKING_OFF = "backing_off"
    #: It does not run: not started yet, finished, or stopped.
    STOPPED = "stopped"
    #: It ended with an error and its supervisor does not start it again.
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSnapshot:
    """One child, and the children below it."""

    id: str
    state: State
    #: How often it was started again; tries that failed count.
    restarts: int
    #: One line, flattened from groups; it stays when the child runs again.
    last_error: str | None
    #: Wall clock (seconds since 1970) when it became ready, and seconds since then; None when it does not run.
    started_at: float | None = None
    uptime: float | None = None
    #: What the actor tells about itself.
    details: Mapping[str, object] = field(default_factory=dict)
    children: tuple[NodeSnapshot, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain dicts, lists, strings and numbers."""
        return {
            "id": self.id,
            "state": self.state.value,
            "restarts": self.restarts,
            "last_error": self.last_error,
            "started_at": self.started_at,
            "uptime": self.uptime,
            "details": dict(self.details),
            "children": [child.to_dict() for child in self.children],
        }

    def find(self, *ids: str) -> NodeSnapshot | None:
        """The node below this one that the ids lead to."""
        node: NodeSnapshot | None = self
        for each in ids:
            node = next((child for child in node.children if child.id == each), None) if node is not None else None
        return node


@runtime_checkable
class Describes(Protocol):
    """An actor that tells something about itself."""

    def describe(self) -> Mapping[str, object]:
        """A few facts, quickly; JSON-able."""


@runtime_checkable
class Branches(Protocol):
    """An actor with children: a supervisor."""

    def child_snapshots(self) -> tuple[NodeSnapshot, ...]:
        """The children, in start order."""


def details_of(actor: object) -> Mapping[str, object]:
    """What the actor tells about itself; a hook that fails must not hurt the snapshot."""
    if not isinstance(actor, Describes):
        return {}
    try:
        return dict(actor.describe())
    except Exception as error:
        return {"describe_failed": flatten(error)}


def children_of(actor: object) -> tuple[NodeSnapshot, ...]:
    """The children of a supervisor; of any other actor, none."""
    return actor.child_snapshots() if isinstance(actor, Branches) else ()
