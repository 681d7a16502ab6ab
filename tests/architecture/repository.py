"""The repository as the architecture tests read it: its files, and the imports of its sources without running them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Import name → folder. `http/` and `ops/` are plain folders around a package.
PACKAGES = {
    "supervisors": "supervisors",
    "openstream_runtime": "openstream_runtime",
    "openstream_http": "http/openstream_http",
    "openstream_client": "http/openstream_client",
    "openstream_ops": "ops/openstream_ops",
}


@dataclass(frozen=True)
class Import:
    """One import statement: what it names, and where it stands."""

    file: str
    line: int
    #: `a.b` for `import a.b`; `a.b.c` for `from a.b import c`.
    name: str

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


@cache
def files() -> tuple[str, ...]:
    """Every file that is in git or could be committed as it is, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return tuple(sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file()))


@cache
def tracked() -> tuple[str, ...]:
    """Every file that is in git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(name for name in listed.split("\0") if name and (ROOT / name).is_file())


def sources() -> tuple[str, ...]:
    """The Python files of the five packages."""
    folders = tuple(f"{folder}/" for folder in PACKAGES.values())
    return tuple(name for name in files() if name.endswith(".py") and name.startswith(folders))


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_bytes(), file)


def imports(file: str) -> Iterator[Import]:
    """Every import of a file, those inside functions included."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            for alias in node.names:
                yield Import(file, node.lineno, f"{'.' * node.level}{module}.{alias.name}")


def dotted(node: ast.AST) -> str:
    """`a.b.c` for an expression of names and attributes, with an empty head for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return ".".join(reversed(parts))
