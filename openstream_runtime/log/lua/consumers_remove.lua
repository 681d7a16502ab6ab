-- KEYS stream. ARGV group, our consumer, least idle time in ms. Answers how many consumers were removed.
-- Invariant: looked at and removed as one step, because what a removed consumer still holds is lost.
local stream, group = KEYS[1], ARGV[1]
local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
if consumers.err then
  if string.find(consumers.err, 'NOGROUP') == 1 or string.find(consumers.err, 'no such key') then return 0 end
  error(consumers)
end
local removed = 0
for _, raw in ipairs(consumers) do
  local name, pending, idle = raw[2], raw[4], raw[6]
  if name ~= ARGV[2] and pending == 0 and idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
    removed = removed + 1
  end
end
return removed
