-- KEYS meta, producers, producers before. ARGV topic id, producer, epoch, seq, where its events stand, how many finished
-- requests and how many bytes of places are remembered, how long (ms) and how many producers are. Answers 1, or 0 when the home does not know the request.
local field, epoch, seq, places = 'h' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
if redis.call('HGET', KEYS[1], 'tid') ~= ARGV[1] then return 0 end
local home = recall(KEYS[2], KEYS[3], field)
home = home and cmsgpack.unpack(home)
if not home or home[1] < epoch then return 0 end
-- A script that has written may go on when memory is full: what is kept already must not leave its producer waiting.
redis.call('HDEL', KEYS[3], field)
local open, past = home[4], home[5]
if home[1] == epoch and open and open[1] == seq then
  home[3], home[4] = seq + open[2], false
  past[#past + 1] = { open[1], open[2], open[3], places }
  local size = 0
  for _, one in ipairs(past) do size = size + #one[4] end
  while #past > 1 and (#past > tonumber(ARGV[6]) or size > tonumber(ARGV[7])) do
    size = size - #table.remove(past, 1)[4]
  end
end
redis.call('HSET', KEYS[2], field, cmsgpack.pack(home))
local since = turn_over(KEYS[2], KEYS[3], now_ms(), tonumber(ARGV[8]), tonumber(ARGV[9]))
if since then redis.call('HSET', KEYS[1], 'pf', since) end
return home[1] == epoch and home[3] <= seq and 0 or 1
