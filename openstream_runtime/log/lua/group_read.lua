-- KEYS streams, in the order to serve them. ARGV group, consumer, count, bytes.
-- Answers pages, indexes of partitions without the group, ids after which to wait, how many had vanished.
-- Invariant: when nothing was found, the ids say where the streams ended at that same moment.
for index, stream in ipairs(KEYS) do
  if full() then break end
  if not take_released(index, stream) then
    missing[#missing + 1] = index
  else
    while not full() do
      local size = page_size()
      local answer = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', size, 'STREAMS', stream, '>')
      local entries = answer and answer[1] and answer[1][2] or {}
      hand_out(index, entries, 1)
      if #entries < size then break end
    end
  end
end

local tails = {}
if #pages == 0 then
  for index, stream in ipairs(KEYS) do
    local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    tails[index] = last and last[1] or '0-0'
  end
end
return { pages, missing, tails, vanished }
