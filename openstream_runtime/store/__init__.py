"""PostgreSQL, and only here: the events, their cursors, the catalog."""

from openstream_runtime.store.errors import MigrationFailed, Misconfigured, SchemaMismatch
from openstream_runtime.store.pool import Limits
from openstream_runtime.store.schema import migrate
from openstream_runtime.store.store import Store, open_store

__all__ = ["Limits", "MigrationFailed", "Misconfigured", "SchemaMismatch", "Store", "migrate", "open_store"]
