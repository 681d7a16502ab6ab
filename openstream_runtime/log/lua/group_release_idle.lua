-- KEYS stream, meta, side stream. ARGV group, least idle time in ms, count, how often an entry may be handed out or 0.
-- Answers how many entries were released, how many died, and how many dead ones wait to be moved.
-- By consumer, so that what waits already is never walked over again.
local side, group, left, most = KEYS[3], ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local again, dead = 0, 0

local function release(stream)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
  if consumers.err then
    if string.find(consumers.err, 'NOGROUP') == 1 or string.find(consumers.err, 'no such key') then return end
    error(consumers)
  end
  for _, raw in ipairs(consumers) do
    local name, pending = raw[2], raw[4]
    local from = '-'
    while not is_ours(name) and pending > 0 and left > 0 do
      local size = math.min(left, 1000)
      local page = redis.call('XPENDING', stream, group, 'IDLE', ARGV[2], from, '+', size, name)
      if #page > 0 then
        local command = { 'XCLAIM', stream, group, RELEASED, ARGV[2] }
        for _, one in ipairs(page) do
          if most > 0 and one[4] >= most then
            dead = dead + condemn(stream, side, group, one, 'timed_out')
          else
            command[#command + 1] = one[1]
          end
        end
        if #command > 5 then
          command[#command + 1] = 'JUSTID' -- keeps the count
          again = again + #redis.call(unpack(command))
        end
        left = left - #page
        from = '(' .. page[#page][1]
      end
      if #page < size then break end
    end
  end
end

release(KEYS[1])
release(side)
return { again, dead, redis.call('XLEN', side .. ':dead') }
