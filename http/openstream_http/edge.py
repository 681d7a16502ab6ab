"""What every route may reach for: the node's gateway, the settings, who checks tokens, who counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from quart import Quart, current_app

from openstream_http.auth import Verifier
from openstream_http.budget import Budget
from openstream_http.patience import Patience
from openstream_http.streams import Streams
from openstream_runtime.gateway.gateway import Gateway
from openstream_runtime.ports.meter import Clock, Meter
from openstream_runtime.settings import Settings

_KEY = "openstream"


@dataclass(frozen=True, slots=True)
class Edge:
    """One app's surroundings. `meter` None: nobody counts."""

    app: Quart
    gateway: Gateway
    settings: Settings
    verifier: Verifier
    clock: Clock
    #: Seconds for a body to begin, and to go on; what has arrived buys more.
    body_timeout: float
    meter: Meter | None = None
    #: Bytes of bodies in memory.
    bodies: Budget = field(init=False)
    #: Answers that last as long as their readers like.
    streams: Streams = field(init=False)
    #: Wrong admin secrets, of all callers together.
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        # As much as may wait in mailboxes (gateway/pressure.py), and never less than two of the largest bodies.
        limit = max(4 * self.settings.mailbox_bytes, 2 * self.settings.max_body_bytes)
        object.__setattr__(self, "bodies", Budget(limit, self.meter))
        object.__setattr__(self, "streams", Streams(self.meter))

    def attach(self) -> None:
        self.app.extensions[_KEY] = self


def edge() -> Edge:
    """The surroundings of the app that serves the current request."""
    return cast(Edge, current_app.extensions[_KEY])
