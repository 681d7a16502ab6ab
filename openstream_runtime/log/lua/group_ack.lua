-- KEYS stream, meta, side stream. ARGV group, ids. Answers how many were pending.
local stream, side, group = KEYS[1], KEYS[3], ARGV[1]
local acked = redis.call('XACK', stream, unpack(ARGV))
if acked == #ARGV - 1 or redis.call('EXISTS', side) == 0 then return acked end
acked = acked + redis.call('XACK', side, unpack(ARGV))
redis.call('XDEL', side, unpack(ARGV, 2))
if redis.call('XLEN', side) == 0 and redis.call('HEXISTS', KEYS[2], 'c:' .. group) == 0 then
  redis.call('UNLINK', side)
end
return acked
