-- What is remembered for a while, in two hashes: the one that is written, and the one before it. When the first is old
-- or large enough it takes the place of the second. So nothing is searched for what may go, and what was written stays
-- for `lasts` milliseconds at least, or until `most` others were written after it.
local function recall(key, before, field)
  return redis.call('HGET', key, field) or redis.call('HGET', before, field)
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- After the first write of a script, never before: it frees memory, and what is refused for want of it must stay so.
-- Answers a time when something went: all that was written since then is still there.
local function turn_over(key, before, now, lasts, most)
  local begun = tonumber(redis.call('HGET', key, '') or nil)
  if not begun then
    redis.call('HSET', key, '', now)
    redis.call('PEXPIRE', key, 2 * lasts)
    return nil
  end
  if now - begun < lasts and redis.call('HLEN', key) <= most then return nil end
  local went = redis.call('EXISTS', before) == 1
  redis.call('UNLINK', before)
  redis.call('RENAME', key, before)
  redis.call('PEXPIRE', before, lasts)
  redis.call('HSET', key, '', now)
  redis.call('PEXPIRE', key, 2 * lasts)
  return went and begun or nil
end
