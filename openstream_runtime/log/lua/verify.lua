-- KEYS stream, meta. ARGV topic id, run id, generation, cursor. Answers 1, or 0 when the partition belongs to a newer
-- topic of this name. Invariant: afterwards no id can be handed out that PostgreSQL already knows, and
-- n - pn is how many entries stand after pid.
local stream, meta_key, topic, cursor = KEYS[1], KEYS[2], ARGV[1], ARGV[4]

local function last_generated()
  if redis.call('EXISTS', stream) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

local floor = last_generated()
if before(floor, cursor) then floor = cursor end
local meta = redis.call('HMGET', meta_key, 'tid', 'n', 'pn', 'pid')
if meta[1] and tonumber(meta[1]) > tonumber(topic) then return 0 end
-- A script that has written may go on writing when memory is full: what leads to trimming is not refused then.
redis.call('HDEL', meta_key, 'run')
if meta[1] and meta[1] ~= topic then
  redis.call('UNLINK', stream, meta_key) -- what a deleted topic left behind; its ids are not used again
  meta = {}
end
if redis.call('EXISTS', stream) == 0 then
  redis.call('XGROUP', 'CREATE', stream, '~os:verify', '$', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', stream, '~os:verify')
end
if before(last_generated(), floor) then redis.call('XSETID', stream, floor) end

local n, pn, pid = tonumber(meta[2] or nil), tonumber(meta[3] or nil), meta[4]
if not n or not pn or not pid or before(pid, cursor) then
  if not pid or before(pid, cursor) then pid = cursor end
  local waiting = count_after(stream, pid)
  n = math.max(n or 0, waiting)
  pn = n - waiting
end
redis.call('HSET', meta_key, 'tid', topic, 'run', ARGV[2], 'g', ARGV[3], 'n', n, 'pn', pn, 'pid', pid)
return 1
