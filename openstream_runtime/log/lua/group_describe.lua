-- KEYS stream, meta, side stream. ARGV group, how many entries to count at most. Answers nothing without the group, else
-- last delivered id, pending, lag, age in ms of the first event not delivered, for each consumer name, pending, idle in
-- ms, and where the group is cold the id up to which PostgreSQL serves it, else '', and how many entries stand above that.
local stream, meta, side = KEYS[1], KEYS[2], KEYS[3]
if redis.call('EXISTS', stream) == 0 then return false end
local group = nil
for _, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  if raw[2] == ARGV[1] then
    group = {}
    for i = 1, #raw, 2 do group[raw[i]] = raw[i + 1] end
  end
end
if not group then return false end

local at, lag, age, pending, upto = group['last-delivered-id'], group['lag'], 0, group['pending'], ''
local cold = redis.call('HMGET', meta, 'c:' .. ARGV[1], 'cn:' .. ARGV[1], 'tf')
if cold[1] then
  at, upto, lag = cold[1], cold[3], false
  if cold[2] then lag = tonumber(cold[2]) + redis.call('XLEN', stream) end
elseif not lag then
  lag = count_after(stream, at, tonumber(ARGV[2])) -- Redis cannot tell after a start in the middle
end
local next_entry = redis.call('XRANGE', stream, '(' .. at, '+', 'COUNT', 1)[1]
if next_entry then
  local time = redis.call('TIME')
  age = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(string.match(next_entry[1], '^%d+'))
end

local consumers = {}
for _, key in ipairs({ stream, side }) do
  if key == stream or redis.call('EXISTS', side) == 1 then
    if key == side then pending = pending + redis.call('XPENDING', side, ARGV[1])[1] end
    for _, raw in ipairs(redis.call('XINFO', 'CONSUMERS', key, ARGV[1])) do
      consumers[#consumers + 1] = { raw[2], raw[4], raw[6] }
    end
  end
end
return { at, pending, lag, math.max(0, age), consumers, upto, upto ~= '' and redis.call('XLEN', stream) or 0 }
