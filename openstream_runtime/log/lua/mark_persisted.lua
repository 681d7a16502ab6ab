-- KEYS stream, meta, lease, what names of side streams begin with. ARGV token, cursor, events since the last mark ('' to
-- count anew), trim below, how many pending entries to move at most, run id.
-- Answers how many entries were trimmed and 1 when more could be; -1 when the lease is not held with this token, -2 when
-- nobody has verified the partition on this server.
-- Invariant: only the owner gets past the first line, pid never goes back, and nothing after the cursor is trimmed:
-- `trim below` comes as min(what retention asks, the id after the cursor), or as 0-0.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return { -1, 0 } end
if redis.call('HGET', KEYS[2], 'run') ~= ARGV[6] then return { -2, 0 } end
local stream, cursor = KEYS[1], ARGV[2]
-- A script that has written may go on writing when memory is full: trimming must not be refused then.
redis.call('HDEL', KEYS[2], '')
local trimmed, more = leave_to_store(stream, KEYS[2], KEYS[4], ARGV[4], tonumber(ARGV[5]))
local meta = redis.call('HMGET', KEYS[2], 'n', 'pn', 'pid')
local n, pn, pid = tonumber(meta[1] or nil), tonumber(meta[2] or nil), meta[3]
if n and pn and pid then -- else nobody verified the partition since Redis lost it: verify counts
  if before(pid, cursor) then
    pid = cursor
    if ARGV[3] ~= '' then pn = math.min(n, pn + tonumber(ARGV[3])) end
  end
  local last = last_entry(stream)
  if not last or not before(pid, last) then
    pn = n
  elseif ARGV[3] == '' then
    pn = n - math.min(n, count_after(stream, pid))
  end
  redis.call('HSET', KEYS[2], 'pn', pn, 'pid', pid)
end
return { trimmed, more }
