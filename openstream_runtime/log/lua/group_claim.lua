-- KEYS streams, in the order to serve them. ARGV group, consumer, count, bytes, least idle time in ms.
-- Answers as group_read does, without ids to wait for.
for index, stream in ipairs(KEYS) do
  if full() then break end
  if not take_released(index, stream) then
    missing[#missing + 1] = index
  else
    local from = '-'
    while not full() do
      local size = page_size()
      local pending = redis.call('XPENDING', stream, group, 'IDLE', ARGV[5], from, '+', size)
      if #pending > 0 then
        from = '(' .. pending[#pending][1]
        take_over(index, stream, pending, ARGV[5])
      end
      if #pending < size then break end
    end
  end
end
return { pages, missing, {}, vanished }
