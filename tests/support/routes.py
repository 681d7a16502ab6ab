"""What every route says to every kind of token, in one table.

A row is a request that is in order: whoever may send it gets `known` (the topic is there) or `unknown` (it is not).
Everything else follows: without a good token 401, with another role 403, with a name that is none 422, and for a topic
that the token does not cover 403, whether or not there is such a topic.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from support.edge import ADMIN_SECRET

#: The topic that is there, the one that is not, and one that is no name. `KNOWN` holds group `g` and replay `rp_0`,
#: into itself with `-copy` behind.
KNOWN, UNKNOWN, MALFORMED = "known", "unknown", "no%7Bname"
COPY = f"{KNOWN}-copy"


class About(Enum):
    """What a route tells about, where it does not name its topic."""

    #: One topic, named in the path.
    TOPIC = "topic"
    #: The topics the token covers.
    COVERED = "covered"
    #: One replay: 404 when the token does not cover both of its topics.
    REPLAY = "replay"
    #: Everything at once: for tokens that are not narrowed.
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Row:
    """A request, who may send it, and what it answers them."""

    route: str
    #: Letters: producer, consumer, admin; empty: everybody, without a token.
    who: str
    known: int
    unknown: int = 404
    body: Any = None
    about: About = About.TOPIC
    query: str = ""
    #: One more topic that the token must cover.
    also: str | None = None

    @property
    def method(self) -> str:
        return self.route.split()[0]

    def path(self, topic: str) -> str:
        path = self.route.split()[1]
        for name, value in {
            "topic": topic, "group": "g", "partition": "0", "replay_id": "rp_0", "slug": "conflict", "name": "page.css",
        }.items():  # fmt: skip
            path = path.replace(f"<{name}>", value)
        return path + self.query

    @property
    def id(self) -> str:
        return f"{self.route}{self.query}{'+' + self.also if self.also else ''}"


_TOPIC = "/v1/topics/<topic>"
_GROUP = f"{_TOPIC}/groups/<group>"
_EVENTS = {"events": [{"event_type": "t", "payload": 1}]}
_REPLAY = {"target_topic": COPY}

#: p, c, a: the roles producer, consumer and admin.
ROWS = (
    Row(f"PUT {_TOPIC}", "a", 200, 201),
    Row("GET /v1/topics", "pca", 200, about=About.COVERED),
    Row(f"GET {_TOPIC}", "pca", 200),
    Row(f"DELETE {_TOPIC}", "a", 202),
    Row(f"POST {_TOPIC}/events", "pa", 200, 200, _EVENTS),
    Row(f"GET {_TOPIC}/events", "ca", 200),
    Row(f"GET {_TOPIC}/partitions/<partition>/events", "ca", 200),
    Row(f"POST {_TOPIC}/groups", "a", 201, 404, {"group": "new"}),
    Row(f"POST {_TOPIC}/groups", "a", 201, 404, {"group": "new", "dead_letter_topic": "dead"}, also="dead"),
    Row(f"GET {_TOPIC}/groups", "ca", 200),
    Row(f"GET {_GROUP}", "ca", 200),
    Row(f"PATCH {_GROUP}", "a", 200, 404, {"paused": True}),
    Row(f"PATCH {_GROUP}", "a", 200, 404, {"dead_letter_topic": "dead"}, also="dead"),
    Row(f"DELETE {_GROUP}", "a", 204),
    Row(f"POST {_GROUP}/read", "ca", 200, 404, {"consumer": "c", "block_ms": 0}),
    Row(f"POST {_GROUP}/claim", "ca", 200, 404, {"consumer": "c", "min_idle_ms": 0}),
    Row(f"POST {_GROUP}/ack", "ca", 200, 404, {"items": [{"partition": 0, "redis_ids": ["1-0"]}]}),
    Row(f"POST {_GROUP}/nack", "ca", 200, 404, {"items": [{"partition": 0, "redis_ids": ["1-0"]}]}),
    Row(f"POST {_GROUP}/extend", "ca", 200, 404, {"consumer": "c", "items": [{"partition": 0, "redis_ids": ["1-0"]}]}),
    Row(f"GET {_GROUP}/dead-letters", "ca", 200),
    Row(f"POST {_GROUP}/dead-letters/redrive", "a", 200, 404, {"to": "group", "all": True}),
    Row(f"POST {_GROUP}/reset", "a", 200, 404, {"start_id": "0-0"}),
    Row(f"POST {_TOPIC}/replays", "a", 202, 404, _REPLAY, also=COPY),
    Row("GET /v1/replays", "a", 200, about=About.COVERED),
    Row("GET /v1/replays/<replay_id>", "a", 200, about=About.REPLAY),
    Row("DELETE /v1/replays/<replay_id>", "a", 202, about=About.REPLAY),
    Row("GET /v1/metrics/summary", "pca", 200, about=About.COVERED),
    Row("GET /v1/cluster", "pca", 200, about=About.EVERYTHING),
    Row("GET /v1/live", "pca", 200, about=About.COVERED),
    Row("GET /v1/live", "pca", 200, about=About.COVERED, query=f"?topic={COPY}", also=COPY),
    Row(f"GET {_TOPIC}/tail", "ca", 200),
    Row("GET /asyncapi.json", "pca", 200, about=About.COVERED),
    # Without a token.
    Row("POST /v1/auth/token", "", 200, 200, {"sub": "me", "role": "admin", "admin_secret": ADMIN_SECRET}),
    Row("GET /livez", "", 200, 200),
    Row("GET /healthz", "", 200, 200),
    Row("GET /readyz", "", 200, 200),
    Row("GET /metrics", "", 200, 200),
    Row("GET /metrics/", "", 200, 200),
    Row("GET /", "", 200, 200),
    Row("GET /docs", "", 200, 200),
    Row("GET /docs/assets/<name>", "", 200, 200),
    Row("GET /openapi.json", "", 200, 200),
    Row("GET /problems", "", 200, 200),
    Row("GET /problems/<slug>", "", 200, 200),
    Row("GET /ui/assets/<name>", "", 404, 404),
    Row("GET /ui/config.json", "", 200, 200),
)
