-- append.lua for what must not be kept twice: a share of a producer's request, and events with an id of their own.
-- KEYS stream, meta, producers, producers before, ids, ids before. ARGV topic id, run id, max length, max unpersisted,
-- for producers and for ids how long (ms) and how many are remembered, producer (empty: none), epoch, seq, digest, since
-- when epoch and request are known; then for each event type, payload, timestamp, shape, [key], [headers], event id.
-- Answers a number when nothing was kept, else which events were there before ('*': all) and the ids.
-- Invariant: every check stands before the first write, and what was kept and that it was kept are one step.
local call, stream, meta_key = redis.call, KEYS[1], KEYS[2]
local producer, epoch, seq, digest = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]), ARGV[12]
local now = now_ms()

local meta = call('HMGET', meta_key, 'tid', 'run', 'n', 'pn', 'pl', 'pf')
local n, pn = tonumber(meta[3] or nil), tonumber(meta[4] or nil)
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or not n or not pn then return 1 end
local length = call('XLEN', stream)
if length == 0 and call('EXISTS', stream) == 0 then return 1 end
if producer ~= '' then
  local share = recall(KEYS[3], KEYS[4], 's' .. producer)
  share = share and cmsgpack.unpack(share)
  if share and (share[1] > epoch or share[1] == epoch and share[2] > seq) then return 4 end
  if share and share[1] == epoch and share[2] == seq then
    if share[3] ~= digest then return 5 end
    return { '*', share[4] }
  end
  local epoch_ms, begun_ms = tonumber(ARGV[13]), tonumber(ARGV[14])
  -- Redis lost what stood here, or let it go: nobody can tell whether this share was among it.
  if epoch_ms < tonumber(meta[5] or 0) or begun_ms < tonumber(meta[6] or 0) then return 6 end
  if now - begun_ms >= tonumber(ARGV[5]) then return 6 end
end

-- Which events are there already; `first` is the place of the same id earlier in this batch.
local known, first, fresh, count, at = {}, {}, 0, 0, 15
while at <= #ARGV do
  local shape = tonumber(ARGV[at + 3])
  local id = ARGV[at + 4 + shape % 2 + math.floor(shape / 2)]
  count = count + 1
  if id ~= '' then
    known[count] = first[id] or recall(KEYS[5], KEYS[6], '=' .. id)
    first[id] = known[count] or count
  end
  if not known[count] then fresh = fresh + 1 end
  at = at + 5 + shape % 2 + math.floor(shape / 2)
end
if fresh > 0 then
  if length >= tonumber(ARGV[3]) then return 2 end
  if n - pn >= tonumber(ARGV[4]) then return 3 end
end

local ids, duplicates, named, index = {}, {}, false, 0
at = 15
while at <= #ARGV do
  local shape, entry = tonumber(ARGV[at + 3]), nil
  index = index + 1
  if not known[index] then
    entry = { 'XADD', stream, '*', 't', ARGV[at], 'p', ARGV[at + 1], 's', ARGV[at + 2] }
  end
  at = at + 4
  if shape % 2 == 1 then
    if entry then entry[#entry + 1], entry[#entry + 2] = 'k', ARGV[at] end
    at = at + 1
  end
  if shape >= 2 then
    if entry then entry[#entry + 1], entry[#entry + 2] = 'h', ARGV[at] end
    at = at + 1
  end
  if entry then
    ids[index] = call(unpack(entry))
    if ARGV[at] ~= '' then
      call('HSET', KEYS[5], '=' .. ARGV[at], ids[index])
      named = true
    end
  else
    ids[index] = type(known[index]) == 'number' and ids[known[index]] or known[index]
    duplicates[#duplicates + 1] = index - 1
  end
  at = at + 1
end
if fresh > 0 then call('HINCRBY', meta_key, 'n', fresh) end

local head, final = ids[1], ids[count]
if count > 2 and fresh == count and string.match(head, '^%d+') == string.match(final, '^%d+') then
  ids = { head, final }
end
if producer ~= '' then
  call('HSET', KEYS[3], 's' .. producer, cmsgpack.pack({ epoch, seq, digest, ids }))
  local since = turn_over(KEYS[3], KEYS[4], now, tonumber(ARGV[5]), tonumber(ARGV[6]))
  if since then call('HSET', meta_key, 'pf', since) end
end
if named then turn_over(KEYS[5], KEYS[6], now, tonumber(ARGV[7]), tonumber(ARGV[8])) end
return { table.concat(duplicates, ','), ids }
