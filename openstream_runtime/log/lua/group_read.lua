-- KEYS stream, meta and side stream of each partition, in the order to serve them. ARGV group, consumer, count, bytes, how
-- often an entry may be handed out, 1 to hand out only what PostgreSQL has, 1 to leave out partitions on which the group is
-- cold. Answers pages, indexes of partitions without the group, ids after which to wait, how many had vanished, the
-- partition to serve from PostgreSQL (index, after which id, up to which) or nothing, 1 when entries wait to be persisted,
-- in how many ms a delayed entry is due or -1.
-- Invariant: when nothing was found, the ids say where the streams ended at that same moment.
local cold, unpersisted = {}, 0

-- How many entries stand after the group's position that PostgreSQL has, `most` of them counted.
local function persisted(stream, meta, most)
  local at = '0-0'
  for _, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    if raw[2] == group then
      for i = 1, #raw, 2 do
        if raw[i] == 'last-delivered-id' then at = raw[i + 1] end
      end
    end
  end
  local upto = redis.call('HGET', meta, 'pid') or '0-0'
  local entries = redis.call('XRANGE', stream, '(' .. at, upto, 'COUNT', most)
  if #entries < most and redis.call('XRANGE', stream, '(' .. upto, '+', 'COUNT', 1)[1] then unpersisted = 1 end
  return #entries
end

for index, stream, meta, side, beside in partitions() do
  if full() then break end
  end_delays(stream, beside)
  if side then take_released(index, side, true) end
  if not take_released(index, stream) then
    missing[#missing + 1] = index
  elseif not full() then
    local at = redis.call('HGET', meta, 'c:' .. group)
    if not at then
      while not full() do
        local size = page_size()
        local wish = size
        if ARGV[6] == '1' then wish = persisted(stream, meta, size) end
        if wish == 0 then break end
        local answer = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', wish, 'STREAMS', stream, '>')
        local entries = answer and answer[1] and answer[1][2] or {}
        hand_out(index, entries, 1)
        if #entries < size then break end
      end
    elseif ARGV[7] ~= '1' and #pages == 0 then
      -- Its turn: were the others served first, a group that never catches up on them would leave this one for ever.
      cold = { index, at, redis.call('HGET', meta, 'tf') or '0-0' }
      break
    end
  end
end

local tails = {}
if #pages == 0 then
  for index, stream in partitions() do
    local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    tails[index] = last and last[1] or '0-0'
  end
end
return { pages, missing, tails, vanished, cold, unpersisted, due }
