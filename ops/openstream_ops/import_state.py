"""How far a file has been produced: a small file beside it, written before and after each request.

`sending` is the request that is on its way. When it stands in a state that is read back, the process was killed or the
answer was lost: the same request is sent again under its number (`stamp`), and the node knows whether it has it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self
from uuid import uuid4

from openstream_client.numbering import Stamp
from openstream_ops import private_file
from openstream_ops.errors import OpsError

_HEAD_BYTES = 64 << 10


@dataclass
class Sending:
    """Up to here goes the request on its way."""

    line: int
    offset: int


@dataclass
class ImportState:
    """Everything up to `line`, which ends at `offset`, is dealt with."""

    topic: str
    #: SHA-256 of the first bytes up to `head_bytes`: another file under the same name is another import.
    head: str
    head_bytes: int
    #: Of the next request, or of the one that is on its way.
    stamp: Stamp
    line: int = 0
    offset: int = 0
    sent: int = 0
    rejected: int = 0
    sending: Sending | None = None

    @classmethod
    def of(cls, file: IO[bytes], topic: str) -> Self:
        """A fresh one; the file is at its beginning afterwards."""
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        file.seek(0)
        return cls(topic, hashlib.sha256(head).hexdigest(), len(head), Stamp(f"file-{uuid4().hex}"))

    @classmethod
    def of_pipe(cls, topic: str) -> Self:
        """For one run; it is never read back."""
        return cls(topic, "", 0, Stamp(f"pipe-{uuid4().hex}"))

    @classmethod
    def load(cls, path: Path, file: IO[bytes], topic: str) -> Self:
        """What `path` remembers of this file and topic; a fresh one when it remembers nothing."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            sending = Sending(**found["sending"]) if found["sending"] else None
            state = cls(**{**found, "stamp": Stamp(**found["stamp"]), "sending": sending})
        except FileNotFoundError:
            return cls.of(file, topic)
        except (ValueError, TypeError, KeyError) as error:
            raise OpsError(f"{path} is damaged: {error}", "remove it to begin with the first line") from error
        file.seek(0)
        head = hashlib.sha256(file.read(state.head_bytes)).hexdigest()
        if (head, topic) != (state.head, state.topic):
            raise OpsError(
                f"{path} is of another file or topic ({state.topic})", "remove it to begin with the first line"
            )
        return state

    def save(self, path: Path) -> None:
        private_file.write(path, json.dumps(asdict(self)) + "\n")

    def advance(self, line: int, offset: int) -> None:
        self.line, self.offset, self.sending = line, offset, None


def beside(file: Path, topic: str) -> Path:
    """Where the state of a file lives unless --state says otherwise."""
    return file.with_name(f".{file.name}.{topic}.openstream-state")
