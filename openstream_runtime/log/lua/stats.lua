-- KEYS stream, meta, lease. ARGV name of our consumer.
-- Answers length, last id, n, pn, pid, lease token, and for each group name, consumers, pending, lag, last id, read.
local stream = KEYS[1]
local meta = redis.call('HMGET', KEYS[2], 'n', 'pn', 'pid')
local token = redis.call('GET', KEYS[3])
-- No stream, or no longer one: one partition's trouble must not hide what the others look like.
if redis.call('TYPE', stream).ok ~= 'stream' then return { 0, '0-0', meta[1], meta[2], meta[3], token, {} } end

local entry, last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1], nil
if entry then
  last = entry[1]
else -- trimmed to nothing: only XINFO STREAM, which copies entries, still knows the id
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end

local groups = {}
for i, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = {}
  for j = 1, #raw, 2 do group[raw[j]] = raw[j + 1] end
  local consumers = group['consumers']
  if consumers > 0 then
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group['name'])) do
      if consumer[2] == ARGV[1] then consumers = consumers - 1 end
    end
  end
  groups[i] = { group['name'], consumers, group['pending'], group['lag'] or false, group['last-delivered-id'],
    group['entries-read'] or false }
end
return { redis.call('XLEN', stream), last, meta[1], meta[2], meta[3], token, groups }
