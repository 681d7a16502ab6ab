-- What was handed out as often as it may be is dead: held by ~os:dead until it stands in the dead-letter topic. The queue
-- beside the side stream says in which order, and the ids in it are unique for ever, so it is emptied and never removed
-- while there is the group.
local OURS, RELEASED, DELAYED, DEAD = '~os:', '~os:released', '~os:delayed', '~os:dead'

local function is_ours(consumer) return string.sub(consumer, 1, #OURS) == OURS end

-- One pending entry: id, holder, idle, times handed out, as XPENDING gives it. Answers 1, or 0 when it had vanished.
local function condemn(stream, side, group, one, reason)
  local moved = #redis.call('XCLAIM', stream, group, DEAD, 0, one[1], 'JUSTID')
  if moved == 1 then
    redis.call('XADD', side .. ':dead', '*', 'id', one[1], 'n', one[4], 'c', one[2], 'r', reason)
  end
  return moved
end

-- Entries a group holds of a stream, or of its side stream; none when there is no such group.
local function pending_of(stream, group, ...)
  local pending = redis.pcall('XPENDING', stream, group, ...)
  if not pending.err then return pending end
  if string.sub(pending.err, 1, 7) ~= 'NOGROUP' then error(pending) end
  return {}
end
