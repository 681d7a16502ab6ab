"""Brings the dashboard into a wheel or an sdist: what was built is taken, else it is built where npm is there.

OPENSTREAM_UI=require: without it there is no package (releases). OPENSTREAM_UI=skip: nothing is built. Otherwise a
package without a dashboard is a package with a warning: its node says at `/` how to build one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILT = "http/openstream_http/static/ui/index.html"


class DashboardBuildHook(BuildHookInterface[Any]):
    """Named in pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wish = os.environ.get("OPENSTREAM_UI", "")
        root = Path(self.root)
        if version == "editable" or wish == "skip" or (root / BUILT).is_file():
            return
        problem = self._build(root / "ui")
        if problem is None:
            return
        if wish == "require":
            raise RuntimeError(f"the dashboard is required and {problem}")
        self.app.display_warning(f"packaged without the dashboard: {problem}")

    def _build(self, folder: Path) -> str | None:
        """Why it could not be built, or None."""
        npm = shutil.which("npm")
        if npm is None:
            return "npm is not installed"
        if not (folder / "package.json").is_file():
            return "its sources are not here"
        for words in (["ci"], ["run", "build"]):
            done = subprocess.run([npm, *words], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
            if done.returncode != 0:
                return f"`npm {' '.join(words)}` failed: {(done.stderr or done.stdout).strip()[-500:]}"
        return None
