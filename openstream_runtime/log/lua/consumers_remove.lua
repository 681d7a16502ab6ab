-- KEYS stream, meta, side stream. ARGV group, what names of our consumers begin with, least idle time in ms. Answers how many consumers were
-- removed.
-- Invariant: looked at and removed as one step, because what a removed consumer still holds is lost.
local removed = 0
for _, stream in ipairs({ KEYS[1], KEYS[3] }) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, ARGV[1])
  if consumers.err then
    if not (string.find(consumers.err, 'NOGROUP') == 1 or string.find(consumers.err, 'no such key')) then
      error(consumers)
    end
  else
    for _, raw in ipairs(consumers) do
      local name, pending, idle = raw[2], raw[4], raw[6]
      if string.sub(name, 1, #ARGV[2]) ~= ARGV[2] and pending == 0 and idle >= tonumber(ARGV[3]) then
        redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], name)
        removed = removed + 1
      end
    end
  end
end
return removed
