-- Leaving entries to PostgreSQL: what groups still need of them moves into their side streams, then they go.
--
-- A group that has not read all of it becomes cold: `c:<group>` in meta says after which id it goes on, `cn:<group>` how
-- many entries that is up to `tf`, the last id that was ever trimmed. What it holds unacked moves to its side stream as
-- a stub, an entry with the same id and no content, with its consumer, idle time and delivery count.
-- Invariant: what stands at or below `tf` may be missing here and is in PostgreSQL; what stands above it is here.

local function groups_of(stream)
  local groups = {}
  for i, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    groups[i] = {}
    for j = 1, #raw, 2 do groups[i][raw[j]] = raw[j + 1] end
  end
  return groups
end

-- Remove every trace of the groups beside the stream.
local function forget_sides(stream, meta, sides)
  local function forget(name) redis.call('UNLINK', sides .. name, sides .. name .. ':due', sides .. name .. ':dead') end
  if redis.call('TYPE', stream).ok == 'stream' then
    for _, group in ipairs(groups_of(stream)) do forget(group['name']) end
  end
  for _, field in ipairs(redis.call('HKEYS', meta)) do
    local name = string.match(field, '^c:(.*)$')
    if name then forget(name) end
  end
end

-- Stub what a group holds up to `last`, `budget` entries at most; the budget that is left, and the first id it did not
-- cover.
local function stub_pending(stream, side, group, last, budget)
  while true do
    local page = redis.call('XPENDING', stream, group, '-', last, math.min(100, math.max(1, budget)))
    if #page == 0 then return budget end
    if budget <= 0 then return 0, page[1][1] end
    if redis.call('EXISTS', side) == 0 then redis.call('XGROUP', 'CREATE', side, group, '0-0', 'MKSTREAM') end
    local done = { 'XACK', stream, group }
    for _, one in ipairs(page) do
      redis.call('XADD', side, one[1], 's', '')
      redis.call('XCLAIM', side, group, one[2], 0, one[1], 'IDLE', one[3], 'RETRYCOUNT', one[4], 'FORCE', 'JUSTID')
      done[#done + 1] = one[1]
    end
    redis.call(unpack(done))
    budget = budget - #page
  end
end

-- Trim entries below `below`, as far as `budget` pending entries go. Answers how many went, and 1 when more could.
-- `upto`: take this for the last id that is gone, whatever the stream itself has.
local function leave_to_store(stream, meta, sides, below, budget, upto)
  local function last_below(id) return (redis.call('XREVRANGE', stream, '(' .. id, '-', 'COUNT', 1)[1] or {})[1] end
  local last, more = upto or below ~= '0-0' and last_below(below), 0
  if not last then return 0, 0 end
  local groups = groups_of(stream)
  for _, group in ipairs(groups) do
    if group['pending'] > 0 then
      local left, uncovered = stub_pending(stream, sides .. group['name'], group['name'], last, budget)
      budget = left
      if uncovered then
        more, below, last = 1, uncovered, last_below(uncovered)
        if not last then return 0, more end
      end
    end
  end
  local trimmed = redis.call('XTRIM', stream, 'MINID', '=', below)
  local length = redis.call('XLEN', stream)
  for _, group in ipairs(groups) do
    local name = group['name']
    if redis.call('HEXISTS', meta, 'c:' .. name) == 1 then
      if redis.call('HEXISTS', meta, 'cn:' .. name) == 1 then redis.call('HINCRBY', meta, 'cn:' .. name, trimmed) end
    elseif before(group['last-delivered-id'], last) then
      redis.call('HSET', meta, 'c:' .. name, group['last-delivered-id'])
      -- What was lost was counted by nobody.
      if group['lag'] and not upto then redis.call('HSET', meta, 'cn:' .. name, math.max(0, group['lag'] - length)) end
    end
  end
  redis.call('HSET', meta, 'tf', last)
  return trimmed, more
end
