"""What a person sees when everything is up: where it is, and the next thing to type."""

import shlex
from pathlib import Path

from openstream_ops.environment import how_to_join
from openstream_ops.screen import Screen

_EVENT = (
    '{"events":[{"event_type":"order.created","partition_key":"user-1","payload":{"order_id":"o-1","amount":12.34}}]}'
)


def for_nodes(
    screen: Screen, *, urls: list[str], token: str | None, data_dir: Path | None, env_file: Path, next_port: int
) -> None:
    """`data_dir` is None when nothing is kept."""
    url = urls[0]
    screen.line()
    if token is not None:
        # Behind the `#` nothing is ever sent; the page takes it out of the address bar at once.
        screen.fact("Dashboard", f"{url}/#token={token}")
    screen.fact("API", f"{url}/v1", f"docs {url}/docs · metrics {url}/metrics")
    for other in urls[1:]:
        screen.fact("", f"{other}/v1")
    screen.fact(
        "Data", str(data_dir or "kept nowhere (--ephemeral)"), "" if data_dir is None else "--ephemeral keeps none"
    )
    if token is None:
        screen.line("  The node gave no admin token; see its log above.", "yellow")
        token = "paste-token-here"  # noqa: S105
    screen.line()
    screen.line("  Next, in another terminal:", "bold")
    screen.line(f"TOKEN={shlex.quote(token)}")
    for path, body in (
        ("topics/orders/events", _EVENT),
        ("topics/orders/groups", '{"group":"workers","start_id":"0-0"}'),
        ("topics/orders/groups/workers/read", '{"consumer":"c1","count":10,"block_ms":1000}'),
    ):
        screen.line(curl(url, path, body))
    screen.line()
    screen.line("  Or without curl, and without a token: it is kept for the commands.", "bold")
    screen.line("openstream status")
    screen.line("openstream demo")
    screen.line()
    screen.line("  One more node:", "bold")
    screen.line(how_to_join(env_file, next_port))
    screen.line()
    screen.line("  Ctrl-C stops everything.", "dim")


def for_servers(screen: Screen, env_file: Path, port: int) -> None:
    screen.line()
    screen.fact("Env file", str(env_file))
    screen.line()
    screen.line("  A node on these servers, in another terminal:", "bold")
    screen.line(how_to_join(env_file, port))
    screen.line()
    screen.line("  Ctrl-C stops both.", "dim")


def curl(url: str, path: str, body: str) -> str:
    """One line to copy; no indentation and no continuation that a paste could break."""
    return (
        f'curl -sS -X POST {url}/v1/{path} -H "Authorization: Bearer $TOKEN" '
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )
