"""The checks of `openstream doctor`. Each says what it saw and, when that is not good, what to do."""

from __future__ import annotations

import base64
import binascii
import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from openstream_client.client import OpenStream
from openstream_client.errors import ClientError, Unauthenticated, Unavailable, Unreachable
from openstream_ops.context import Target
from openstream_ops.quantities import since_ms
from openstream_ops.sums import group_rows

State = Literal["ok", "warning", "failed", "unknown"]
#: The Date header is in whole seconds, so less than two cannot be told from none.
SKEW_S = 2.0
#: The samplers take one every second or so; numbers older than this mislead.
STALE_MS = 15_000
MEMORY_SHARE = 0.8
EXPIRES_SOON_S = 300


@dataclass(frozen=True)
class Finding:
    """One check."""

    check: str
    state: State
    detail: str
    hint: str = ""
    exit_code: int = 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


async def diagnose(target: Target) -> list[Finding]:
    async with OpenStream(target.urls, target.token) as client:
        findings = await _node(client, target)
        if findings[-1].state == "failed":
            return findings
        findings += await _clock(client)
        token = await _token(client, target)
        findings += token
        if token[-1].state == "failed":
            return findings
        try:
            summary, cluster = await client.summary(), await client.cluster()
        except ClientError as error:
            return [*findings, Finding("numbers", "failed", error.detail, "a token without a list of topics sees all")]
        return [*findings, *of_summary(summary), *of_cluster(cluster)]


async def _node(client: OpenStream, target: Target) -> list[Finding]:
    try:
        await client.readiness()
    except Unreachable as error:
        hint = f"{target.named_by} names it; `openstream dev` starts one here"
        return [Finding("node", "failed", error.detail, hint, 3)]
    except Unavailable as error:
        checks = "; ".join(
            f"{one['name']}: {one.get('detail') or 'failed'}" for one in error.facts.get("checks", ()) if not one["ok"]
        )
        return [
            Finding(
                "node", "warning", f"{client.url} answers and is not ready: {checks or error.detail}", "see its log"
            )
        ]
    except ClientError as error:
        return [Finding("node", "failed", error.detail, "is this an OpenStream node?", 3)]
    return [Finding("node", "ok", f"{client.url} is ready")]


async def _clock(client: OpenStream) -> list[Finding]:
    before = time.time()
    try:
        theirs = await client.clock()
    except (ClientError, KeyError, ValueError) as error:
        return [Finding("clock", "unknown", f"the node told no time: {error}")]
    after = time.time()
    skew = max(0.0, theirs - after, before - (theirs + 1))
    if skew > SKEW_S:
        return [Finding("clock", "warning", f"the node's clock is {skew:.0f} s away from ours", "run NTP on both")]
    return [Finding("clock", "ok", "no skew that could be seen")]


async def _token(client: OpenStream, target: Target) -> list[Finding]:
    if target.token is None:
        return [Finding("token", "failed", "none is set", "`openstream token mint`, then OPENSTREAM_TOKEN", 4)]
    try:
        await client.topics()
    except Unauthenticated as error:
        return [Finding("token", "failed", error.detail, "`openstream token mint` makes another", 4)]
    except ClientError as error:
        return [Finding("token", "failed", error.detail, "", 4 if error.status == 403 else 1)]
    claims = claims_of(target.token)
    left = claims.get("exp", 0) - time.time() if "exp" in claims else None
    narrowed = f", only {', '.join(claims['topics'])}" if claims.get("topics") else ""
    good_for = "" if left is None else f", good for {since_ms(left * 1000)}"
    detail = f"{claims.get('role', 'unknown role')} of {claims.get('sub', 'nobody')}{narrowed}{good_for}"
    if left is not None and left < EXPIRES_SOON_S:
        return [Finding("token", "warning", detail, "it expires soon; `openstream token mint` makes another")]
    return [Finding("token", "ok", detail)]


def claims_of(token: str) -> dict[str, Any]:
    """What a token says of itself. Not checked here: the node has taken it."""
    parts = token.split(".")
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return found if isinstance(found, dict) else {}


def of_summary(summary: dict[str, Any]) -> list[Finding]:
    redis, postgres, age = summary["redis"], summary["postgres"], summary.get("sampled_age_ms")
    findings = []
    used, limit = redis.get("used_memory") or 0, redis.get("maxmemory") or 0
    memory = f"{redis.get('used_memory_human', used)} used" + (f", {used / limit:.0%} of maxmemory" if limit else "")
    if not redis["ok"]:
        findings.append(
            Finding("redis", "failed", redis.get("detail") or "away", "REDIS_URL of the node; its log says more")
        )
    elif limit and used / limit > MEMORY_SHARE:
        findings.append(
            Finding("redis", "warning", memory, "more maxmemory, or a shorter retention of the largest topics")
        )
    elif not limit:
        findings.append(Finding("redis", "ok", f"{memory}, no maxmemory set"))
    else:
        findings.append(Finding("redis", "ok", memory))
    policy, aof = redis.get("maxmemory_policy"), redis.get("aof_enabled")
    if policy is None and aof is None:
        hint = "redis-cli CONFIG GET maxmemory-policy (noeviction), appendonly (yes)"
        findings.append(Finding("redis settings", "unknown", "the node does not tell eviction policy and AOF", hint))
    else:
        good = policy in (None, "noeviction") and aof in (None, True, 1)
        hint = "maxmemory-policy noeviction and appendonly yes: anything else loses acknowledged events"
        findings.append(
            Finding("redis settings", "ok" if good else "failed", f"maxmemory-policy {policy}, AOF {aof}", hint)
        )
    if postgres["ok"]:
        findings.append(Finding("postgres", "ok", postgres.get("detail") or "answers"))
    else:
        findings.append(
            Finding(
                "postgres", "failed", postgres.get("detail") or "away", "DATABASE_URL of the node; its log says more"
            )
        )
    if age is None or age > STALE_MS:
        findings.append(Finding("samples", "warning", f"the numbers are {since_ms(age)} old", "see `openstream tree`"))
    return [*findings, *_lag(summary)]


def _lag(summary: dict[str, Any]) -> list[Finding]:
    groups = [row for topic in summary["topics"] for row in group_rows(summary, topic["topic"])]
    behind = sorted((row for row in groups if row["lag"]), key=lambda row: -row["lag"])
    unread = [row for row in behind if not row["consumers"]]
    if unread:
        worst = unread[0]
        detail = f"{worst['topic']}/{worst['group']} is {worst['lag']:,} behind and has no consumer"
        return [Finding("lag", "warning", detail, "start its consumers, or `openstream group delete` it")]
    if behind:
        worst = behind[0]
        return [
            Finding("lag", "ok", f"at most {worst['lag']:,}: {worst['topic']}/{worst['group']}, which is being read")
        ]
    return [Finding("lag", "ok", f"none of {len(groups)} groups is known to be behind")]


def of_cluster(cluster: dict[str, Any]) -> list[Finding]:
    orphans = [f"{one['topic']}/{one['partition']}" for one in cluster["partitions"] if one["owner"] is None]
    some = ", ".join(orphans[:3]) + (" …" if len(orphans) > 3 else "")
    if orphans:
        detail = f"{len(orphans)} partitions without: {some}"
        findings = [
            Finding("owners", "warning", detail, "leases are taken within seconds; if not, see the nodes' logs")
        ]
    else:
        detail = f"each of {len(cluster['partitions'])} partitions has one, on {len(cluster['nodes'])} nodes"
        findings = [Finding("owners", "ok", detail)]
    troubled = list(_troubled(cluster["tree"], ""))
    if troubled:
        findings.append(Finding("actors", "warning", "; ".join(troubled[:3]), "`openstream tree` shows all of them"))
    else:
        findings.append(Finding("actors", "ok", "all run"))
    return findings


def _troubled(node: dict[str, Any], above: str) -> list[str]:
    path = f"{above}/{node['id']}" if above else str(node["id"])
    mine = [f"{path} is {node['state']}: {node['last_error']}"] if node["state"] in {"backing_off", "failed"} else []
    return [*mine, *(line for child in node["children"] for line in _troubled(child, path))]
