-- KEYS stream. ARGV group, how many entries to count at most. Answers nothing without the group, else last delivered
-- id, pending, lag, age in ms of the first event not delivered, and for each consumer name, pending, idle in ms.
local stream = KEYS[1]
if redis.call('EXISTS', stream) == 0 then return false end
local group = nil
for _, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  if raw[2] == ARGV[1] then
    group = {}
    for i = 1, #raw, 2 do group[raw[i]] = raw[i + 1] end
  end
end
if not group then return false end

local at, age = group['last-delivered-id'], 0
local lag = group['lag']
if not lag then lag = count_after(stream, at, tonumber(ARGV[2])) end -- Redis cannot tell after a start in the middle
local next_entry = redis.call('XRANGE', stream, '(' .. at, '+', 'COUNT', 1)[1]
if next_entry then
  local time = redis.call('TIME')
  age = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(string.match(next_entry[1], '^%d+'))
end

local consumers = {}
for i, raw in ipairs(redis.call('XINFO', 'CONSUMERS', stream, ARGV[1])) do
  consumers[i] = { raw[2], raw[4], raw[6] }
end
return { at, group['pending'], lag, math.max(0, age), consumers }
