"""What the tree tells becomes log lines and a count of restarts, whose labels do not grow with topics."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from openstream_runtime.telemetry.observer import TreeObserver, kind_of
from supervisors.events import Exited, GaveUp, Removed, Restarting, Started, Stopped, TreeEvent


class Counts:
    def __init__(self) -> None:
        self.started: list[str] = []
        self.restarted: list[str] = []

    def actor_started(self, actor: str) -> None:
        self.started.append(actor)

    def actor_restarted(self, actor: str) -> None:
        self.restarted.append(actor)


CRASH = ValueError("no\nsuch thing")
ACTOR = "node/partitions/orders/3/persister"


@pytest.mark.parametrize(
    ("event", "level", "says"),
    [
        (Started(path=ACTOR, incarnation=1), "debug", "actor started"),
        (Started(path=ACTOR, incarnation=2), "info", "actor runs again"),
        (Exited(path=ACTOR, incarnation=1, error=None), "info", "actor ended"),
        (Exited(path=ACTOR, incarnation=1, error=CRASH), "error", "actor crashed"),
        (Stopped(path=ACTOR, incarnation=1, error=None), "debug", "actor stopped"),
        (Stopped(path=ACTOR, incarnation=1, error=CRASH), "warning", "actor failed while it stopped"),
        (Restarting(path=ACTOR, incarnation=2, error=CRASH, delay=0.25), "warning", "actor will be started again"),
        (
            GaveUp(path="node/partitions", incarnation=1, child="orders/3", error=CRASH),
            "error",
            "supervisor gave up: its restart budget is spent",
        ),
        (Removed(path=ACTOR, incarnation=1), "debug", "actor removed"),
        (TreeEvent(path=ACTOR, incarnation=1), "info", "tree event"),
    ],
)
def test_each_event_is_one_line_of_its_level(event: TreeEvent, level: str, says: str) -> None:
    counts = Counts()
    with capture_logs() as lines:
        TreeObserver(counts)(event)
    (line,) = lines
    assert (line["log_level"], line["event"], line["actor"]) == (level, says, event.path)
    assert line["incarnation"] == event.incarnation
    if getattr(event, "error", None) is not None:
        assert line["error"] == "ValueError: no such thing"
    assert counts.started == (["node/partitions/*/persister"] if event == Started(path=ACTOR, incarnation=1) else [])
    assert counts.restarted == (["node/partitions/*/persister"] if isinstance(event, Restarting) else [])


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("node", "node"),
        ("node/metrics", "node/metrics"),
        ("metrics", "metrics"),
        ("node/partitions", "node/partitions"),
        ("node/partitions/orders/3", "node/partitions/*"),
        ("node/partitions/orders/3/persister", "node/partitions/*/persister"),
        ("node/partitions/orders/3/reaper", "node/partitions/*/reaper"),
        ("partitions/reaper", "partitions/*"),
        ("node/partitions/partitions/3", "node/partitions/*"),
        ("node/ingestion/orders", "node/ingestion/*"),
    ],
)
def test_the_label_of_an_actor_is_its_place_in_the_tree_without_names_of_topics(path: str, kind: str) -> None:
    assert kind_of(path) == kind
