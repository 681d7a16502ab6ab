-- KEYS stream, meta, side stream. ARGV group, our consumer, least idle time in ms, count. Answers how many entries were
-- released. By consumer, so that what waits as released already is never walked over again.
local group, released, left = ARGV[1], ARGV[2], tonumber(ARGV[4])
local moved = 0

local function release(stream)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
  if consumers.err then
    if string.find(consumers.err, 'NOGROUP') == 1 or string.find(consumers.err, 'no such key') then return end
    error(consumers)
  end
  for _, raw in ipairs(consumers) do
    local name, pending = raw[2], raw[4]
    local from = '-'
    while name ~= released and pending > 0 and left > 0 do
      local size = math.min(left, 1000)
      local page = redis.call('XPENDING', stream, group, 'IDLE', ARGV[3], from, '+', size, name)
      if #page > 0 then
        local command = { 'XCLAIM', stream, group, released, ARGV[3] }
        for _, one in ipairs(page) do command[#command + 1] = one[1] end
        command[#command + 1] = 'JUSTID' -- keeps the count
        moved = moved + #redis.call(unpack(command))
        left = left - #page
        from = '(' .. page[#page][1]
      end
      if #page < size then break end
    end
  end
end

release(KEYS[1])
release(KEYS[3])
return moved
