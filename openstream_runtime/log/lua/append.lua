-- KEYS stream, meta, [marks]. ARGV topic id, run id, max length, max unpersisted, [source partition, after, upto];
-- then for each event type, payload, timestamp, shape (0 plain, 1 key, 2 headers, 3 key and headers), [key], [headers].
-- Invariant: every check stands before the first write, so a batch is kept whole or not at all; and with marks only
-- when the mark stands at `after`, which the batch moves to `upto`: what comes twice finds it moved.
local stream, marks = KEYS[1], KEYS[3]
if marks then
  local mark = redis.call('HMGET', marks, 'end', ARGV[5])
  mark = mark[1] or mark[2] or '0-0'
  if mark ~= ARGV[6] then return mark end
end
local meta = redis.call('HMGET', KEYS[2], 'tid', 'run', 'n', 'pn')
local n, pn = tonumber(meta[3]), tonumber(meta[4])
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or not n or not pn then return 1 end
local length = redis.call('XLEN', stream)
-- A stream somebody removed has forgotten its last id.
if length == 0 and redis.call('EXISTS', stream) == 0 then return 1 end
if length >= tonumber(ARGV[3]) then return 2 end
if n - pn >= tonumber(ARGV[4]) then return 3 end

local call, events = redis.call, ARGV
local ids, count, at, last = {}, 0, marks and 8 or 5, #ARGV
while at <= last do
  local shape = events[at + 3]
  count = count + 1
  if shape == '0' then
    ids[count] = call('XADD', stream, '*', 't', events[at], 'p', events[at + 1], 's', events[at + 2])
    at = at + 4
  elseif shape == '1' then
    ids[count] = call('XADD', stream, '*', 't', events[at], 'p', events[at + 1], 's', events[at + 2],
      'k', events[at + 4])
    at = at + 5
  elseif shape == '2' then
    ids[count] = call('XADD', stream, '*', 't', events[at], 'p', events[at + 1], 's', events[at + 2],
      'h', events[at + 4])
    at = at + 5
  else
    ids[count] = call('XADD', stream, '*', 't', events[at], 'p', events[at + 1], 's', events[at + 2],
      'k', events[at + 4], 'h', events[at + 5])
    at = at + 6
  end
end
redis.call('HINCRBY', KEYS[2], 'n', count)
if marks then redis.call('HSET', marks, ARGV[5], ARGV[7]) end

-- Ids of one millisecond are consecutive: then the ends say it all, and the reply stays short.
local first, final = ids[1], ids[count]
if count > 2 and string.match(first, '^%d+') == string.match(final, '^%d+') then return { first, final } end
return ids
