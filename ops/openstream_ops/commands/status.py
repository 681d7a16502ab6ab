"""`openstream status`: the cluster on one page."""

from typing import Any

from openstream_ops.options import Json, TokenFile, Url


def status(url: Url = None, token_file: TokenFile = None, json: Json = False) -> None:
    """The cluster in numbers: nodes, topics, backlog, lag, memory."""
    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output, shown
    from openstream_ops.sums import group_rows, topic_rows, total

    async def work(client: OpenStream) -> Any:
        topics, summary, cluster = await client.topics(), await client.summary(), await client.cluster()
        return client.url, topics, summary, cluster

    at, topics, summary, cluster = ask(work, url, token_file)
    rows = topic_rows(topics, summary)
    groups = [row for one in topics for row in group_rows(summary, one.topic)]
    redis, postgres = summary["redis"], summary["postgres"]
    facts = {
        "url": at,
        "nodes": len(cluster["nodes"]),
        "draining": cluster["draining"],
        "topics": len(topics),
        "events_in_redis": total(row["length"] for row in rows),
        "unpersisted": total(row["unpersisted"] for row in rows),
        "groups": len(groups),
        "lag": total(row["lag"] for row in groups),
        "partitions_without_owner": sum(1 for one in cluster["partitions"] if one["owner"] is None),
        "redis_ok": redis["ok"],
        "redis_memory": redis["used_memory_human"],
        "postgres_ok": postgres["ok"],
        "sampled_ago_ms": summary["sampled_age_ms"],
    }
    output = Output(json)
    if not output.is_table:
        output.record({**facts, "topic_stats": rows})
        return
    output.say(f"OpenStream at {at}")
    for name, value in facts.items():
        if name != "url":
            output.say(f"  {name.replace('_', ' '):<26}{shown(value)}")
    if rows:
        from openstream_ops.commands.topic import COLUMNS

        output.rows(rows, COLUMNS)
