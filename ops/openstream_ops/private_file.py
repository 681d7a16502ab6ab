"""Files that hold secrets: readable by their owner only, from the first byte on, and never half written."""

import os
from pathlib import Path

MODE = 0o600


def write(path: Path, text: str) -> None:
    """Replaces `path` with `text`; a crash leaves the old content or the new, nothing between."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    # The mode is given at creation: a chmod afterwards would leave a moment in which anyone may read.
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
