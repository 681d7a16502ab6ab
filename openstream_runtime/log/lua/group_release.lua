-- KEYS stream. ARGV group, consumer, our consumer, 1 when they never arrived, ids. Answers how many were released.
-- Invariant: only what this consumer still holds moves, and what never arrived counts the next time as it would have.
local stream, group, consumer, released = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local moved = 0
for i = 5, #ARGV do
  local pending = redis.pcall('XPENDING', stream, group, ARGV[i], ARGV[i], 1, consumer)
  if pending.err then
    if string.sub(pending.err, 1, 7) == 'NOGROUP' then return 0 end
    error(pending)
  end
  if pending[1] then
    local times = pending[1][4]
    if ARGV[4] == '1' then times = math.max(0, times - 1) end
    moved = moved + #redis.call('XCLAIM', stream, group, released, 0, ARGV[i], 'RETRYCOUNT', times, 'JUSTID')
  end
end
return moved
