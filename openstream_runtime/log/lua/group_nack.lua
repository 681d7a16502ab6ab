-- KEYS stream, meta, side stream. ARGV group, consumer or '' for whoever holds them, delay in ms, how often an entry may be
-- handed out or 0, ids. Answers how many are handed out again, and how many are dead.
-- Invariant: only what a consumer holds is given back; what waits already goes on waiting as it did.
local stream, side, group, delay, most = KEYS[1], KEYS[3], ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + delay
local again, dead = 0, 0

local function give_back(key, id)
  local one = pending_of(key, group, id, id, 1)[1]
  if not one or is_ours(one[2]) or (ARGV[2] ~= '' and one[2] ~= ARGV[2]) then return end
  if most > 0 and one[4] >= most then
    dead = dead + condemn(key, side, group, one, 'nacked')
  else
    local moved = #redis.call('XCLAIM', key, group, delay > 0 and DELAYED or RELEASED, 0, id, 'JUSTID')
    if moved == 1 and delay > 0 then redis.call('ZADD', side .. ':due', string.format('%.0f', due), id) end
    again = again + moved
  end
end

for i = 5, #ARGV do
  give_back(stream, ARGV[i])
  give_back(side, ARGV[i])
end
return { again, dead }
