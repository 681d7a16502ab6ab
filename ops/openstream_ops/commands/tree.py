"""`openstream tree`: what runs inside a node, and how it fares."""

from typing import Any

import typer

from openstream_ops.options import Json, TokenFile, Url


def tree(url: Url = None, token_file: TokenFile = None, json: Json = False) -> None:
    """The supervision tree of the node that answers: states, restarts, last errors."""
    from openstream_client import OpenStream
    from openstream_ops.asking import ask
    from openstream_ops.output import Output
    from openstream_ops.tree_view import show

    async def work(client: OpenStream) -> dict[str, Any]:
        return await client.cluster()

    found = ask(work, url, token_file)
    output = Output(json)
    if output.is_table:
        show(str(found["node"]), found["tree"])
    else:
        output.record(found["tree"])
    if _troubled(found["tree"]):
        raise typer.Exit(1)


def _troubled(node: dict[str, Any]) -> bool:
    return node["state"] == "failed" or any(_troubled(child) for child in node["children"])
