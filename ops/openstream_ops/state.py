"""What a data directory remembers between runs: the ports its servers had and the secrets they were set up with."""

import dataclasses
import json
import secrets
from pathlib import Path
from typing import Self

from openstream_ops import private_file
from openstream_ops.errors import OpsError


@dataclasses.dataclass(frozen=True)
class State:
    """Made once per data directory; only the ports change, when somebody else took one in the meantime."""

    valkey_password: str
    postgres_password: str
    jwt_secret: str
    valkey_port: int | None = None
    postgres_port: int | None = None

    @classmethod
    def fresh(cls) -> Self:
        # Hex, so that no URL, shell or configuration file has to quote them. HS256 asks for a key of 32 bytes.
        return cls(
            valkey_password=secrets.token_hex(24),
            postgres_password=secrets.token_hex(24),
            jwt_secret=secrets.token_hex(32),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """The state kept in `path`; a fresh one, written there, when there is none yet."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            state = cls.fresh()
            state.save(path)
            return state
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise OpsError(
                f"{path} is damaged: {error}",
                "put the file back from a copy, or start over with another --data-dir",
            ) from error

    def with_ports(self, *, valkey: int, postgres: int) -> Self:
        return dataclasses.replace(self, valkey_port=valkey, postgres_port=postgres)

    def save(self, path: Path) -> None:
        private_file.write(path, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def __repr__(self) -> str:
        # A state ends up in tracebacks and debug logs; its secrets must not.
        return f"State(valkey_port={self.valkey_port}, postgres_port={self.postgres_port})"
