-- KEYS stream, meta and side stream of each partition, in the order to serve them. ARGV group, consumer, count, bytes, how
-- often an entry may be handed out, least idle time in ms. Answers as group_read does, without ids to wait for.
local function take_idle(index, stream, are_stubs)
  local from = '-'
  -- What was released and is taken already has been idle for no time, and that is enough when none is asked for.
  local taken = {}
  for _, page in ipairs(pages) do
    if page[1] == index then
      for _, entry in ipairs(page[2]) do taken[entry[1]] = true end
    end
  end
  while not full() do
    local size = page_size()
    local pending = redis.call('XPENDING', stream, group, 'IDLE', ARGV[6], from, '+', size)
    if #pending > 0 then
      from = '(' .. pending[#pending][1]
      local others = {}
      for _, one in ipairs(pending) do
        if not taken[one[1]] and not is_ours(one[2]) then others[#others + 1] = one end
      end
      if #others > 0 then take_over(index, stream, others, ARGV[6], are_stubs) end
    end
    if #pending < size then break end
  end
end

for index, stream, _, side, beside in partitions() do
  if full() then break end
  end_delays(stream, beside)
  if side then
    take_released(index, side, true)
    take_idle(index, side, true)
  end
  if not take_released(index, stream) then
    missing[#missing + 1] = index
  else
    take_idle(index, stream)
  end
end
return { pages, missing, {}, vanished, {}, 0, due }
