-- KEYS meta, producers, producers before. ARGV topic id, run id, producer, epoch, seq, count, digest, how long (ms) and
-- how many producers are remembered. Answers a number and what it is about: 1 verify first, 4 stale (the epoch that
-- counts), 5 other content, 6 forgotten, 7 not the next one (the next), 8 kept (where), 9 admitted (since when epoch and
-- request are known).
-- A home knows of a producer: epoch, since when, the next number, the request that is under way (number, count, digest,
-- since when), and the last ones that were finished (number, count, digest, where).
local field, epoch, seq, count, digest = 'h' .. ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local meta = redis.call('HMGET', KEYS[1], 'tid', 'run', 'pl')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] then return { 1 } end
local now = now_ms()
local home = recall(KEYS[2], KEYS[3], field)
home = home and cmsgpack.unpack(home)

if home and epoch < home[1] then return { 4, home[1] } end
-- A producer that nobody knows may have been forgotten: only at the very beginning there is nothing to have forgotten.
if not home and seq ~= 0 then return { 6 } end
if not home or epoch > home[1] then
  home = { epoch, math.max(now, tonumber(meta[3] or nil) or 0), seq, false, {} }
end
if seq < home[3] then
  for _, one in ipairs(home[5]) do
    if one[1] == seq then
      if one[2] ~= count or one[3] ~= digest then return { 5 } end
      return { 8, one[4] }
    end
  end
  return { 7, home[3] }
end
if seq > home[3] then return { 7, home[3] } end
if home[2] < (tonumber(meta[3] or nil) or 0) then return { 6 } end
if home[4] and (home[4][2] ~= count or home[4][3] ~= digest) then return { 5 } end
if not home[4] then
  home[4] = { seq, count, digest, now }
  redis.call('HSET', KEYS[2], field, cmsgpack.pack(home))
  local since = turn_over(KEYS[2], KEYS[3], now, tonumber(ARGV[8]), tonumber(ARGV[9]))
  if since then redis.call('HSET', KEYS[1], 'pf', since) end
end
return { 9, home[2], home[4][4] }
