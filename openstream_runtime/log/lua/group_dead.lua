-- KEYS stream, meta, side stream. ARGV group, count, bytes. Answers the head of the queue of the dead: id in the queue, id,
-- times handed out, last holder, reason, 1 when it is pending still, and the entry or nothing when it was trimmed.
local stream, side, group, room = KEYS[1], KEYS[3], ARGV[1], tonumber(ARGV[3])
local found = {}
for _, one in ipairs(redis.call('XRANGE', side .. ':dead', '-', '+', 'COUNT', ARGV[2])) do
  local fields = {}
  for i = 1, #one[2], 2 do fields[one[2][i]] = one[2][i + 1] end
  local id = fields['id']
  local held = pending_of(stream, group, id, id, 1, DEAD)[1] or pending_of(side, group, id, id, 1, DEAD)[1]
  local entry = held and redis.call('XRANGE', stream, id, id)[1] or false
  found[#found + 1] = { one[1], id, tonumber(fields['n']), fields['c'], fields['r'], held and 1 or 0, entry }
  for _, text in ipairs(entry and entry[2] or {}) do room = room - #text end
  if room <= 0 then break end
end
return found
