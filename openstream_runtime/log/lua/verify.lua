-- KEYS stream, meta, what names of side streams begin with, what producers and events were remembered. ARGV topic id,
-- generation, cursor, a floor for when Redis may have lost something, run id. Answers 1, or 0 when the partition belongs to a newer topic of this name.
-- Invariant: afterwards no id can be handed out that PostgreSQL already knows, n - pn is how many entries stand after
-- pid, and whatever PostgreSQL has and the stream has not stands at or below tf.
local stream, meta_key, sides, topic, cursor = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[3]
local lost = false

local function last_generated()
  if redis.call('EXISTS', stream) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

local floor, is_there = last_generated(), redis.call('EXISTS', stream) == 1
local meta = redis.call('HMGET', meta_key, 'tid', 'n', 'pn', 'pid', 'run', 'gb', 'ge')
if meta[1] and tonumber(meta[1]) > tonumber(topic) then return 0 end
-- A script that has written may go on writing when memory is full: what leads to trimming is not refused then.
redis.call('HDEL', meta_key, 'run')
if meta[1] and meta[1] ~= topic then
  forget_sides(stream, meta_key, sides)
  redis.call('UNLINK', stream, meta_key, unpack(KEYS, 4)) -- what a deleted topic left behind; its ids are not used again
  if before(floor, cursor) then floor = cursor end
  meta, is_there = {}, false
end
if redis.call('EXISTS', stream) == 0 then
  redis.call('XGROUP', 'CREATE', stream, '~os:verify', '$', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', stream, '~os:verify')
end

-- Between `gb` and `ge` no id was ever given out here: a cursor in there came by a commit of what another Redis had,
-- after somebody had verified the partition by an older cursor.
local in_gap = meta[6] and before(meta[6], cursor) and before(cursor, meta[7])
if before(floor, cursor) or in_gap then
  -- Redis came back empty, or behind: groups find in PostgreSQL what it lost. What is left here up to there stands there.
  lost = true
  if not in_gap then floor = cursor end
  leave_to_store(stream, meta_key, sides, cursor, math.huge, cursor)
  if before(floor, ARGV[4]) then floor = ARGV[4] end
elseif not meta[1] and cursor ~= '0-0' then
  -- Nobody knows what was trimmed: at most what stands before the first entry.
  lost = true
  local first, trimmed = first_entry(stream), cursor
  if first and not before(cursor, first) then trimmed = preceding(first) end
  leave_to_store(stream, meta_key, sides, '0-1', math.huge, trimmed)
end
-- Readers may know ids of what was lost: they are not given to other events.
if meta[5] and (meta[5] ~= ARGV[5] or not is_there) and before(floor, ARGV[4]) then floor = ARGV[4] end
if in_gap then redis.call('HSET', meta_key, 'gb', cursor) end
local last = last_generated()
if before(last, floor) then
  redis.call('XSETID', stream, floor)
  redis.call('HSET', meta_key, 'gb', before(last, cursor) and cursor or last, 'ge', floor)
end

local n, pn, pid = tonumber(meta[2] or nil), tonumber(meta[3] or nil), meta[4]
if not n or not pn or not pid or before(pid, cursor) then
  if not pid or before(pid, cursor) then pid = cursor end
  local waiting = count_after(stream, pid)
  n = math.max(n or 0, waiting)
  pn = n - waiting
end
redis.call('HSET', meta_key, 'tid', topic, 'run', ARGV[5], 'g', ARGV[2], 'n', n, 'pn', pn, 'pid', pid)
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.ceil(tonumber(time[2]) / 1000)
-- PostgreSQL may have events of requests that nobody here knows any more: producers begin anew.
if lost then redis.call('HSET', meta_key, 'pl', now) end
-- Something may be gone that neither Redis nor PostgreSQL can tell of: who was told that it is kept looks after it.
if lost or not is_there or meta[5] ~= ARGV[5] then redis.call('HSET', meta_key, 'vt', now) end
return 1
