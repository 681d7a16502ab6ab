-- KEYS stream, meta, side stream. ARGV group, consumer, our consumer, 1 when they never arrived, ids. Answers how many
-- were released.
-- Invariant: only what this consumer still holds moves, and what never arrived counts the next time as it would have.
local group, consumer, released = ARGV[1], ARGV[2], ARGV[3]
local moved = 0

local function release(stream, id)
  local pending = redis.pcall('XPENDING', stream, group, id, id, 1, consumer)
  if pending.err then
    if string.sub(pending.err, 1, 7) == 'NOGROUP' then return end
    error(pending)
  end
  if pending[1] then
    local times = pending[1][4]
    if ARGV[4] == '1' then times = math.max(0, times - 1) end
    moved = moved + #redis.call('XCLAIM', stream, group, released, 0, id, 'RETRYCOUNT', times, 'JUSTID')
  end
end

local side = redis.call('EXISTS', KEYS[3]) == 1
for i = 5, #ARGV do
  release(KEYS[1], ARGV[i])
  if side then release(KEYS[3], ARGV[i]) end
end
return moved
