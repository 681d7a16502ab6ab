"""Redis (or Valkey), and only here: streams, groups, leases, members, and the one blocking read of a node."""

from openstream_runtime.log.redis_log import RedisLog, open_log

__all__ = ["RedisLog", "open_log"]
