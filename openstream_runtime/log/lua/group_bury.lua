-- KEYS stream, meta, side stream. ARGV group, then of each entry its id in the queue of the dead and its id. Answers how many
-- of them were in the queue.
-- Invariant: only what is in the queue and held as dead is acknowledged. After a reset of the group it may be in somebody
-- else's hands.
local stream, side, group = KEYS[1], KEYS[3], ARGV[1]
local buried = 0
for i = 2, #ARGV, 2 do
  local id = ARGV[i + 1]
  if redis.call('XDEL', side .. ':dead', ARGV[i]) == 1 then
    buried = buried + 1
    if pending_of(stream, group, id, id, 1, DEAD)[1] then redis.call('XACK', stream, group, id) end
    if pending_of(side, group, id, id, 1, DEAD)[1] then
      redis.call('XACK', side, group, id)
      redis.call('XDEL', side, id)
    end
  end
end
if redis.call('EXISTS', side) == 1 and redis.call('XLEN', side) == 0
  and redis.call('HEXISTS', KEYS[2], 'c:' .. group) == 0 then
  redis.call('UNLINK', side)
end
return buried
