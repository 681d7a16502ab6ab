-- KEYS stream. ARGV group, id. Answers how many pending entries were dropped.
-- A new group in place of the old one: XGROUP SETID would keep the pending entries and deliver them twice.
local dropped = 0
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
if pending.err then
  if string.sub(pending.err, 1, 7) ~= 'NOGROUP' then error(pending) end
else
  dropped = pending[1]
  redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
return dropped
