-- KEYS stream, meta, side stream. ARGV group, id, 1 to leave a group alone that is there.
-- Answers -1 when nobody has verified the partition: where it ends is not known then. -2 when the group is left alone;
-- else how many pending entries were dropped, and the id.
-- A new group in place of the old one: XGROUP SETID would keep the pending entries and deliver them twice.
local stream, meta, side, group, at = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
local known = redis.call('HMGET', meta, 'tid', 'tf')
if not known[1] or redis.call('EXISTS', stream) == 0 then return { -1, '' } end
local dropped = 0
local pending = redis.pcall('XPENDING', stream, group)
if pending.err then
  if string.sub(pending.err, 1, 7) ~= 'NOGROUP' then error(pending) end
else
  if ARGV[3] == '1' then return { -2, '' } end
  dropped = pending[1]
  redis.call('XGROUP', 'DESTROY', stream, group)
end
local stubs = redis.pcall('XPENDING', side, group)
if not stubs.err then dropped = dropped + stubs[1] end
redis.call('UNLINK', side, side .. ':due')
redis.call('XTRIM', side .. ':dead', 'MAXLEN', 0) -- emptied, not removed: its ids are never used again
redis.call('HDEL', meta, 'c:' .. group, 'cn:' .. group)
local added
if at == '$' then
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then at = info[i + 1] end
    if info[i] == 'entries-added' then added = info[i + 1] end
  end
end
local trimmed = known[2] or '0-0'
if before(at, trimmed) then
  redis.call('HSET', meta, 'c:' .. group, at)
  redis.call('XGROUP', 'CREATE', stream, group, trimmed)
elseif added then -- told how much was before it, Redis knows the group's lag from its first event on
  redis.call('XGROUP', 'CREATE', stream, group, at, 'ENTRIESREAD', added)
else
  redis.call('XGROUP', 'CREATE', stream, group, at)
end
return { dropped, at }
