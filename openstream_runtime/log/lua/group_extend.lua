-- KEYS stream, meta, side stream. ARGV group, consumer, ids. The idle time of what this consumer holds begins anew.
-- Answers the ids of what it does not hold.
local group, consumer, lost = ARGV[1], ARGV[2], {}

local function extend(stream, id)
  if not pending_of(stream, group, id, id, 1, consumer)[1] then return false end
  return #redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID') == 1 -- JUSTID keeps the count
end

for i = 3, #ARGV do
  if not extend(KEYS[1], ARGV[i]) and not extend(KEYS[3], ARGV[i]) then lost[#lost + 1] = ARGV[i] end
end
return lost
