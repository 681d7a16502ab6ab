-- KEYS stream, meta, what names of side streams begin with. Answers for each group its name, the id up to which everything
-- was acknowledged, and where it is cold and nobody has counted: after which id, up to which.
local stream, lows = KEYS[1], {}
if redis.call('TYPE', stream).ok ~= 'stream' then return lows end
for _, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = {}
  for j = 1, #raw, 2 do group[raw[j]] = raw[j + 1] end
  local name, side = group['name'], KEYS[3] .. group['name']
  local cold = redis.call('HMGET', KEYS[2], 'c:' .. name, 'cn:' .. name, 'tf')
  local at = cold[1] or group['last-delivered-id']
  local oldest = redis.call('XPENDING', stream, name)[2]
  if redis.call('EXISTS', side) == 1 then oldest = redis.call('XPENDING', side, name)[2] or oldest end
  if oldest then at = preceding(oldest) end
  lows[#lows + 1] = { name, at, cold[1] and not cold[2] and cold[1] or '', cold[3] or '0-0' }
end
return lows
