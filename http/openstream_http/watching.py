"""What people and machines watch a node by. Every answer is made of what actors have sampled: none of it waits."""

from __future__ import annotations

from anyio import to_thread
from quart import Blueprint, Response, request

from openstream_http import schemas
from openstream_http.access import Reach, permits, principal, public
from openstream_http.auth import Role
from openstream_http.edge import edge
from openstream_http.openapi import describes
from openstream_http.problems import UNAVAILABLE, Problem
from openstream_http.rendering import json_response

watching = Blueprint("watching", __name__)
_TEXT = "text/plain"


@watching.get("/v1/metrics/summary")
@permits(Role.PRODUCER, Role.CONSUMER)
@describes("watching", responses={200: schemas.Summary})
async def summary() -> Response:
    """Topics, partitions and groups in numbers."""
    return json_response(edge().gateway.summary(principal().allows))


@watching.get("/v1/cluster")
@permits(Role.PRODUCER, Role.CONSUMER, reach=Reach.EVERYTHING)
@describes("watching", responses={200: schemas.Cluster})
async def cluster() -> Response:
    """Nodes, who owns which partition, and this node's supervision tree."""
    return json_response(edge().gateway.cluster())


@watching.get("/livez")
@public
@describes("watching", responses={200: _TEXT})
async def livez() -> Response:
    """Whether the process answers."""
    return Response("ok\n", content_type=_TEXT)


@watching.get("/healthz")
@public
@describes("watching", responses={200: _TEXT})
async def healthz() -> Response:
    """The same as /livez, under the name that many tools expect."""
    return await livez()


@watching.get("/readyz")
@public
@describes("watching", responses={200: _TEXT})
async def readyz() -> Response:
    """Whether this node should get requests; `?verbose` lists the conditions."""
    checks = edge().gateway.readiness()
    failed = [check.name for check in checks if not check.ok]
    if failed:
        raise Problem(
            UNAVAILABLE,
            f"not ready: {', '.join(failed)}",
            checks=[{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks],
        )
    if "verbose" not in request.args:
        return Response("ok\n", content_type=_TEXT)
    lines = [f"[+] {check.name} ok{f': {check.detail}' if check.detail else ''}\n" for check in checks]
    return Response("".join(lines) + "ok\n", content_type=_TEXT)


@watching.get("/metrics")
@watching.get("/metrics/")
@public
@describes("watching", responses={200: _TEXT})
async def metrics() -> Response:
    """Prometheus text."""
    # In a thread: of a thousand partitions it is 80 ms of work, in which nobody else would be served.
    content_type, body = await to_thread.run_sync(edge().gateway.metrics, request.headers.get("Accept", ""))
    return Response(body, content_type=content_type)
