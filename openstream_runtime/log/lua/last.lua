-- KEYS streams. The id of the last entry of each, '0-0' for none: ids only, payloads stay here.
local ids = {}
for i, stream in ipairs(KEYS) do
  local entry = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  ids[i] = entry and entry[1] or '0-0'
end
return ids
