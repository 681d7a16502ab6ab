-- KEYS stream, meta. ARGV 1 to ask for its size. Answers length, first id, last id ever handed out, now in ms, bytes, and
-- the last id ever trimmed.
local stream = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local trimmed = redis.call('HGET', KEYS[2], 'tf') or '0-0'
if redis.call('EXISTS', stream) == 0 then return { 0, false, '0-0', now, 0, trimmed } end
local info, last = redis.call('XINFO', 'STREAM', stream), nil
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local size = ARGV[1] == '1' and redis.call('MEMORY', 'USAGE', stream) or 0
return { redis.call('XLEN', stream), first and first[1] or false, last, now, size, trimmed }
