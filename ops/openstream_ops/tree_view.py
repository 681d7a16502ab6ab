"""A supervision tree on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from openstream_ops.output import printable
from openstream_ops.quantities import since_ms

_STYLES = {
    "running": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "backing_off": "bold yellow",
    "failed": "bold red",
}


def show(node: str, root: dict[str, Any]) -> None:
    tree = Tree(_label(root, node))
    _grow(tree, root)
    Console(highlight=False).print(tree)


def _grow(tree: Tree, parent: dict[str, Any]) -> None:
    for child in parent["children"]:
        _grow(tree.add(_label(child, child["id"])), child)


def _label(node: dict[str, Any], name: str) -> Text:
    state = str(node["state"])
    text = Text.assemble((printable(name), "bold"), "  ", (state, _STYLES.get(state, "dim")))
    if node.get("uptime") is not None:
        text.append(f"  {since_ms(1000 * node['uptime'])}", "dim")
    if node["restarts"]:
        text.append(f"  {node['restarts']} restarts", "yellow")
    if node.get("last_error"):
        text.append(f"  {printable(str(node['last_error']))}", "red")
    return text
