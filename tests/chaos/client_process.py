"""A client in a process of its own, so that it can be killed. It reads and works slowly; its journal tells of it.

python -m chaos.client_process '{"urls": [...], "token": ..., "topic": ..., "group": ..., "name": ..., "journal": ...}'
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import anyio

from support.history import History
from support.journal import Journal
from support.load import Consumer, Producer
from support.nodes import Nodes

LIFE_S = 60.0


async def work(urls: list[str], token: str, topic: str, group: str, name: str, journal: str) -> None:
    deadline, never = time.monotonic() + LIFE_S, anyio.Event()
    with Journal(Path(journal)) as recorder:
        history = History(topic, recorder=recorder)
        async with Nodes(urls, token) as nodes, anyio.create_task_group() as tasks:
            keys = [f"{name}-{number}" for number in range(8)]
            tasks.start_soon(Producer(history, nodes, name, keys, 10**6, batch=5, rate=200).run, deadline, never)
            # Slow at its work: whenever it is killed it holds events it has not acknowledged.
            tasks.start_soon(Consumer(history, nodes, group, name, count=40, work_s=0.3).run, deadline, never)


def main() -> None:
    told: dict[str, Any] = json.loads(sys.argv[1])
    anyio.run(lambda: work(**told))


if __name__ == "__main__":
    main()
