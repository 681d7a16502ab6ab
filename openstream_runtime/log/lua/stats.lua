-- KEYS stream, meta, lease, what names of side streams begin with. ARGV what names of our consumers begin with.
-- Answers length, last id, n, pn, pid, lease token, when it was verified anew, and for each group name, consumers, pending, lag, last id, read.
local stream = KEYS[1]
local meta = redis.call('HMGET', KEYS[2], 'n', 'pn', 'pid', 'vt')
local token = redis.call('GET', KEYS[3])
-- No stream, or no longer one: one partition's trouble must not hide what the others look like.
if redis.call('TYPE', stream).ok ~= 'stream' then return { 0, '0-0', meta[1], meta[2], meta[3], token, meta[4], {} } end

local entry, last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1], nil
if entry then
  last = entry[1]
else -- trimmed to nothing: only XINFO STREAM, which copies entries, still knows the id
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end

local groups, length = {}, redis.call('XLEN', stream)

-- Consumers but for ours, counted only where there are any: most groups of most partitions have none.
local function consumers_of(key, name, most)
  if most == 0 then return 0 end
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', key, name)) do
    if string.sub(consumer[2], 1, #ARGV[1]) == ARGV[1] then most = most - 1 end
  end
  return most
end

for i, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = {}
  for j = 1, #raw, 2 do group[raw[j]] = raw[j + 1] end
  local name, lag = group['name'], group['lag'] or false
  local pending, consumers = group['pending'], consumers_of(stream, name, group['consumers'])
  local cold = redis.call('HMGET', KEYS[2], 'c:' .. name, 'cn:' .. name)
  if cold[1] then lag = cold[2] and tonumber(cold[2]) + length or false end
  local side = KEYS[4] .. name
  if redis.call('EXISTS', side) == 1 then
    local beside = redis.call('XINFO', 'GROUPS', side)[1]
    for j = 1, #beside, 2 do
      if beside[j] == 'pending' then pending = pending + beside[j + 1] end
      if beside[j] == 'consumers' then consumers = math.max(consumers, consumers_of(side, name, beside[j + 1])) end
    end
  end
  groups[i] = { name, consumers, pending, lag, cold[1] or group['last-delivered-id'], group['entries-read'] or false }
end
return { length, last, meta[1], meta[2], meta[3], token, meta[4], groups }
